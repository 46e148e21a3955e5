"""One simulated federation from site folders to results: prepare, run an engine, gather, summarise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from fedsteph.client.site.site import site_folders
from fedsteph.client.target.enhance import RESULT_FILE
from fedsteph.common.errors import EngineError, QuorumError, SiteError
from fedsteph.common.host import atomic
from fedsteph.common.host.monitor import watching
from fedsteph.server.app import OUTCOME_FILE
from fedsteph.simulations.run.file_names import RESULTS_FILE, SUMMARY_FILE
from fedsteph.simulations.run.flower_engine import run_with_flower
from fedsteph.simulations.run.in_process import run_in_process
from fedsteph.simulations.run.oracle import oracle_row
from fedsteph.simulations.run.run_folder import RunFolder
from fedsteph.simulations.run.summary import summary
from fedsteph.simulations.run.synthetic_cohorts import write_world

SCHEMA = "fedsteph/results/v1"
Engine = Literal["flower", "in-process"]


def synthetic_sites(out: Path, seed: int) -> list[Path]:
    """The synthetic hospitals of a run folder, made whole or not at all."""
    folder = out / f"hospitals-seed{seed}"
    if not folder.exists():
        part = out / ".hospitals.part"
        shutil.rmtree(part, ignore_errors=True)
        write_world(part, seed)
        part.rename(folder)
    return site_folders(folder)


def run(folder: RunFolder, engine: Engine) -> dict[str, Any]:
    """Run or resume a prepared federation, and write ``results.json`` and ``summary.md``.

    Returns:
        the results. Sites that failed are in ``failures``.

    Raises:
        QuorumError: too few sites were left.
        EngineError: Flower itself failed.
    """
    (folder.path / "server" / OUTCOME_FILE).unlink(missing_ok=True)
    parties = [folder.path / "server", *(folder.site_state(site.name) for site in folder.sites)]
    with watching(parties):
        _run_engine(folder, engine)
    outcome = json.loads((folder.path / "server" / OUTCOME_FILE).read_text())
    results = _gather(folder, outcome)
    atomic.write_json(folder.path / RESULTS_FILE, results)
    atomic.write_text(folder.path / SUMMARY_FILE, summary(folder, results))
    return results


def _run_engine(folder: RunFolder, engine: Engine) -> None:
    try:
        if engine == "flower":
            run_with_flower(folder.path)
        else:
            run_in_process(folder.path)
    except (EngineError, QuorumError) as error:
        # The server wrote the true cause down before it stopped, and Flower reports a failed run only.
        path = folder.path / "server" / OUTCOME_FILE
        cause = json.loads(path.read_text())["error"] if path.exists() else None
        if cause is None:
            raise
        failed = {failure["site"] for failure in json.loads(path.read_text())["failures"]}
        logs = [str(log) for name in sorted(failed) if (log := folder.site_state(name) / "site.log").exists()]
        raise QuorumError(str(cause), remedy=f"Logs: {', '.join(logs)}" if logs else None) from error


def _gather(folder: RunFolder, outcome: dict[str, Any]) -> dict[str, Any]:
    """The owner's view: every target's own result, exact, from its own folder on this machine."""
    targets: dict[str, Any] = {}
    for site in folder.sites:
        if site.name in outcome["targets"]:
            result = json.loads((folder.site_state(site.name) / RESULT_FILE).read_text())
            if (row := oracle_row(site, folder.config)) is not None:
                result["methods"]["oracle"] = row
            targets[site.name] = result
    return {
        "schema": SCHEMA,
        "targets": targets,
        "failures": outcome["failures"],
        "communication": {"bytes": outcome["bytes"]},
        "seconds": outcome["seconds"],
    }


def require_no_failure(folder: RunFolder, results: dict[str, Any]) -> None:
    """Raise for the first failed site, if there is one, and say where the others' results are.

    Raises:
        SiteError: naming the site, the phase, the reason, and the site's log.
    """
    for failure in results["failures"]:
        log = folder.site_state(failure["site"]) / "site.log"
        hint = f"Its log: {log}. " if log.exists() else ""
        raise SiteError(
            f"failed in {failure['phase']}: {failure['reason']}",
            where=f"site {failure['site']}",
            remedy=f"{hint}The other sites' results: {folder.path / RESULTS_FILE}",
        )
