"""Makes the coordinator's page of a run: results as far as the sites' policies allow, transfers, and costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import RunFolderError
from fedsteph.common.report.conclusion import ROUNDED, rounded
from fedsteph.common.report.page import REPORT, Page, Section, Table, write_page
from fedsteph.common.report.provenance import cost_section, limits_section, provenance_section
from fedsteph.common.report.transfer import relayed, transfer_section
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.vector.shared_part import description
from fedsteph.server.manifest import CONFIG_FILE, MANIFEST_FILE

_AUDIENCE = "For the coordinator and partners: only what each site's policy lets out"


def run_page(run: Path, outcome: Mapping[str, Any]) -> Page:
    """The page of a run folder.

    Args:
        outcome: the server's results: ``sites``, ``targets``, ``failures``, ``seconds`` by phase, and ``bytes``.
    """
    config, manifest = load_config(run / CONFIG_FILE), json.loads((run / MANIFEST_FILE).read_text())
    sections = [
        _sites(outcome),
        _scores(outcome["targets"]),
        transfer_section(
            [relayed(read_lines(Path(manifest["audit"])), manifest["run"])],
            outcome["failures"],
            description(config.sharing),
        ),
        cost_section(outcome["seconds"], outcome["bytes"]),
        provenance_section(manifest, (run / CONFIG_FILE).read_text()),
        limits_section(
            ["Numbers are rounded and in bands, as each site's policy has it; intervals stay at the sites."]
        ),
    ]
    verdict = [rounded(name, _by_title(told))[0] for name, told in outcome["targets"].items()]
    verdict = [*verdict, ROUNDED] if verdict else ["The run came to no result."]
    if outcome.get("error"):
        verdict = [f"The run failed: {outcome['error']}.", *verdict]
    return Page(f"Run {manifest['run'][:12]} of {config.federation.name}", _AUDIENCE, verdict, sections)


def write_run_page(run: Path, outcome: Mapping[str, Any] | None = None, out: Path | None = None) -> Path:
    """Write the page, by default into the run folder.

    Args:
        outcome: None: read from the run folder's ``results.json``, or from the server's outcome if the run failed.

    Raises:
        RunFolderError: the run has no results.
    """
    if outcome is None:
        path = run / "results.json"
        if not path.exists():
            path = run / "server" / "outcome.json"
        if not path.exists():
            raise RunFolderError("has no results yet", where=run, remedy="Let the run come to its end")
        outcome = json.loads(path.read_text())
        assert outcome is not None
    return write_page(run_page(run, outcome), out or run / REPORT)


def _sites(outcome: Mapping[str, Any]) -> Section:
    rows = [
        [name, str(told.get("patients") or "not told"), str(told.get("events") or "not told"), told["software"]]
        for name, told in outcome["sites"].items()
    ]
    return Section("Who took part", [Table(["site", "patients", "events", "software"], rows, "Sites")])


def _scores(targets: Mapping[str, Mapping[str, Any]]) -> Section:
    by_target = {name: _by_title(told) for name, told in targets.items()}
    titles = list(dict.fromkeys(title for scores in by_target.values() for title in scores))
    rows = [
        [
            title,
            *("not told" if (value := scores.get(title)) is None else f"{value:.2f}" for scores in by_target.values()),
        ]
        for title in titles
    ]
    return Section("How well patients are ranked", [Table(["method", *by_target], rows, "Mean C-index, as reported")])


def _by_title(told: Mapping[str, Any]) -> dict[str, float | None]:
    return {METHODS[score["method"]].title: score["c_index"] for score in told["scores"]}
