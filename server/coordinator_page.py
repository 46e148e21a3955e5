"""Makes the coordinator's page of a run: results as far as the sites' policies allow, transfers, and costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.run_config import load_config
from fedsteph.common.report.conclusion import ROUNDED, rounded
from fedsteph.common.report.page import REPORT, Page, Section, Table, Text, write_page
from fedsteph.common.report.provenance import cost_section, limits_section, provenance_section
from fedsteph.common.report.transfer import relayed, transfer_section
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.vector.shared_part import description
from fedsteph.common.wire.messages import MergeReply
from fedsteph.server.manifest import CONFIG_FILE, read_flower_run, read_manifest
from fedsteph.server.outcome import Outcome

_MOST_OF_A_NAME = 20  # a run folder's whole name, and enough of a random one
_AUDIENCE = "For the coordinator and partners: only what each site's policy lets out"


def run_page(run: Path, outcome: Outcome) -> Page:
    """The page of a run folder."""
    config, manifest = load_config(run / CONFIG_FILE), read_manifest(run)
    name, flower = str(manifest["run"]), read_flower_run(run)
    named = name if flower is None else f"{name}; in Flower's own lists and logs: {flower}"
    sections = [
        _sites(outcome),
        _scores(outcome.targets),
        transfer_section(
            [relayed(read_lines(Path(manifest["audit"])), name)],
            [str(failure) for failure in outcome.failures],
            description(config.sharing),
        ),
        cost_section(outcome.seconds, outcome.bytes),
        provenance_section({**manifest, "run": named}, (run / CONFIG_FILE).read_text(encoding="utf-8")),
        limits_section(
            ["Numbers are rounded and in bands, as each site's policy has it; intervals stay at the sites."]
        ),
    ]
    verdict = [rounded(name, _by_title(told))[0] for name, told in outcome.targets.items()]
    verdict = [*verdict, ROUNDED] if verdict else ["The run came to no result."]
    if outcome.error:
        verdict = [f"The run failed: {outcome.error}.", *verdict]
    return Page(f"Run {name[:_MOST_OF_A_NAME]} of {config.federation.name}", _AUDIENCE, verdict, sections)


def write_run_page(run: Path, out: Path | None = None) -> Path:
    """Write the page, by default into the run folder. Raises RunFolderError if the run has no results."""
    return write_page(run_page(run, Outcome.read(run)), out or run / REPORT)


def _sites(outcome: Outcome) -> Section:
    rows = [
        [name, str(told.get("patients") or "not told"), str(told.get("events") or "not told"), told["software"]]
        for name, told in outcome.sites.items()
    ]
    return Section("Who took part", [Table(["site", "patients", "events", "software"], rows, "Sites")])


def _scores(targets: Mapping[str, MergeReply]) -> Section:
    by_target = {name: _by_title(told) for name, told in targets.items()}
    titles = list(dict.fromkeys(title for scores in by_target.values() for title in scores))
    rows = [
        [
            title,
            *("not told" if (value := scores.get(title)) is None else f"{value:.2f}" for scores in by_target.values()),
        ]
        for title in titles
    ]
    kept = [
        f"{name} merged vectors kept from earlier runs too: {', '.join(m.kept)}."
        for name, m in targets.items()
        if m.kept
    ]
    table = Table(["method", *by_target], rows, "Mean C-index, as reported")
    return Section("How well patients are ranked", [table, *map(Text, kept)])


def _by_title(told: MergeReply) -> dict[str, float | None]:
    return {METHODS[score.method].title: score.c_index for score in told.scores}
