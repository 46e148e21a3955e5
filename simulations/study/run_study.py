"""Runs a study: opens the sites, runs all units without a result yet, gathers the results, and writes the tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from fedsteph.client.site.site import site_folders
from fedsteph.client.training.device import resolve_device
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.host.progress import NamedProgress
from fedsteph.simulations.run.run_folder import open_sites, same_features
from fedsteph.simulations.study.frontier import write_frontier
from fedsteph.simulations.study.gather import Prepared, gather
from fedsteph.simulations.study.plan import Unit, make_plan
from fedsteph.simulations.study.study_crew import Crew, Failed
from fedsteph.simulations.study.study_evidence import write_study_evidence
from fedsteph.simulations.study.study_file import Study
from fedsteph.simulations.study.study_results import StudyResults
from fedsteph.simulations.study.tables import cells_csv, markdown, results_csv
from fedsteph.simulations.study.work import Ground, Worker


def prepare_study(study: Study, out: Path) -> Prepared:
    """Open the sites and plan the study's work.

    Raises ConfigError if a site or target does not exist, or the sites' features differ; DataError with all problems of
    the sites' labels, file headers or splits.
    """
    resolve_device(study.file.device)
    assert study.file.sites is not None
    opened = open_sites(site_folders(study.file.sites))
    names = study.file.only or tuple(opened)
    targets = study.file.targets or names
    _require_known("only", names, opened)
    _require_known("targets", targets, names)
    _require_known("attacked", study.file.attacked, names)
    if len(names) < 2:
        raise ConfigError("one site is no federation", where=study.file.sites, remedy="Add site folders")
    sites = [opened[name] for name in names]
    model = same_features(study.rows[0].config.model, sites)
    assert model.width is not None
    worker = Worker(Ground(out, {name: opened[name].folder for name in names}, study.file.device))
    cancers = {name: worker.site(name).file.cancer for name in names}
    plan = make_plan(study, cancers, targets, model.width, model.extraction)
    for name in names:
        # Opening every site here finds errors (splits, width, encoder) now instead of hours later.
        worker.workspace(name, plan.cells[0].unit.recipe)
    return Prepared(study, worker, plan, tuple(names), tuple(targets))


def _require_known(key: str, wanted: Iterable[str], known: Collection[str]) -> None:
    if strangers := [name for name in wanted if name not in known]:
        raise ConfigError(f"there is no site '{strangers[0]}'", where=key, remedy=f"The sites are: {', '.join(known)}")


def run_study(prepared: Prepared, workers: int, progress: NamedProgress) -> StudyResults:
    """Run the whole study, and write ``results.json``, ``.md`` and ``.csv``, ``cells.csv``, and the frontier.

    Returns the content of ``results.json``, with failed units in ``failures``. ``progress`` is named by the unit done.
    """
    out, started = prepared.worker.ground.out, time.monotonic()
    failed: list[Failed] = []
    done = 0

    def on_unit(unit: Unit) -> None:
        nonlocal done
        done += 1
        progress(f"{unit.title}, fold {unit.fold}")(done, prepared.plan.n_units)

    with Crew(prepared.worker.ground, workers) as crew:
        for stage in prepared.plan.stages:
            failed += crew.run_stage(_undone(prepared.worker, stage, on_unit), on_unit)
    results = gather(prepared, failed)
    results["seconds"] = round(time.monotonic() - started, 1)
    checked_file.write_json(out / "results.json", results)
    atomic.write_text(out / "results.md", markdown(results))
    atomic.write_text(out / "results.csv", results_csv(results))
    atomic.write_text(out / "cells.csv", cells_csv(results))
    write_frontier(results, out)
    write_study_evidence(prepared, out)
    atomic.write_text(out / "failures.log", "\n".join(one.trace for one in failed if one.trace))
    return results


def _undone(worker: Worker, stage: tuple[Unit, ...], on_unit: Callable[[Unit], None]) -> list[Unit]:
    waiting = []
    for unit in stage:
        if worker.done(unit):
            on_unit(unit)
        else:
            waiting.append(unit)
    return waiting
