"""Makes the coordinator's page of a run: results as far as the sites' policies allow, transfers, and costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.run_config import load_config
from fedsteph.common.report.conclusion import ROUNDED, rounded
from fedsteph.common.report.page import REPORT, Answer, Page, Points, Section, Table, Text, write_page
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
    made = provenance_section({**manifest, "run": named}, (run / CONFIG_FILE).read_text(encoding="utf-8"))
    lines = list(read_lines(Path(manifest["audit"])))
    told = [] if outcome.error else [str(failure) for failure in outcome.failures]  # a failed run's stand first
    sections = [
        *([_sites(outcome)] if outcome.sites else []),
        *([_scores(outcome.targets)] if outcome.targets else []),
        transfer_section([relayed(lines, name)], told, description(config.sharing)),
        Section("For method developers", closed=True),
        replace(cost_section(outcome.seconds, outcome.bytes), level=3),
        replace(made, level=3),
        limits_section(
            ["Numbers are rounded and in bands, as each site's policy has it; intervals stay at the sites."]
        ),
    ]
    title = f"Run {name[:_MOST_OF_A_NAME]} of {config.federation.name}"
    if outcome.error:
        answer = _failed(outcome.error, manifest)
        return Page(title, _AUDIENCE, sections=[_what_to_do(outcome), *sections], answer=answer)
    verdict = [rounded(target, _by_title(reply))[0] for target, reply in outcome.targets.items()]
    return Page(title, _AUDIENCE, [*verdict, ROUNDED] if verdict else ["The run came to no result."], sections)


def _failed(error: str, manifest: Mapping[str, Any]) -> Answer:
    made = f"Begun {str(manifest['created'])[:16].replace('T', ' ')} UTC; fedsteph {version('fedsteph')}."
    cause, _, rest = error.partition(". ")
    return Answer("failed", f"The run failed: {cause.rstrip('.')}.", rest, facts=[made])


def _what_to_do(outcome: Outcome) -> Section:
    """The failures by site, and the way on; sentences alone, because nothing else is known."""
    sites = [f"{failure.site}, in {failure.phase}: {failure.reason}." for failure in outcome.failures]
    steps = [
        "Ask each site that is named here for its own log (site.log): it has the details, which stay there.",
        "When the cause is mended, 'fedsteph run SERVER --resume' goes on under the same name: sites keep what they "
        "have trained.",
    ]
    return Section("What failed, and what to do", [Points([*sites, *steps])])


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
