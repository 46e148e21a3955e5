"""Runs a simulated federation from site folders to results: prepares the run folder, runs an engine, writes results."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fedsteph.client.data.problems import Problem
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.site import site_folders
from fedsteph.client.target.enhance import RESULT_FILE
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.deployment.flower_app import config_folder
from fedsteph.common.errors import ConfigError, EngineError, QuorumError, RunFolderError, SiteError, StorageError
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.host.disk import free_bytes, require_room, writing
from fedsteph.common.host.lock import exclusive
from fedsteph.common.host.monitor import watching
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.server.outcome import OUTCOME_FILE, Failure, Outcome
from fedsteph.simulations.run.flower_engine import run_with_flower
from fedsteph.simulations.run.in_process import run_in_process
from fedsteph.simulations.run.oracle import truth_rows
from fedsteph.simulations.run.run_folder import RunFolder, prepare, refuse_among_sites
from fedsteph.simulations.run.run_results import RESULTS_FILE, RunResults
from fedsteph.simulations.run.summary import SUMMARY_FILE, summary
from fedsteph.simulations.worlds.all_worlds import DEFAULT_WORLD, world_of
from fedsteph.simulations.worlds.drawn_sites import write_world
from fedsteph.simulations.worlds.world import World

Engine = Literal["flower", "in-process"]

_log = logging.getLogger(__name__)


def synthetic_sites(out: Path, world: World, seed: int) -> list[Path]:
    """The site folders of a run's synthetic world; they are generated first, atomically, if they do not exist."""
    folder = out / f"{world.name}-seed{seed}"
    if not folder.exists():
        part = out / f".{world.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            with writing(folder):
                write_world(part, world, seed)
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return site_folders(folder)


def simulate(
    out: Path | str = "fedsteph-run",
    sites: Path | str | None = None,
    config: Config | None = None,
    *,
    engine: Engine = "flower",
    world: str | None = None,
) -> dict[str, Any]:
    """Run a whole federation on this machine, or resume an interrupted run.

    Args:
        out: the run folder. The same call again reuses its results; a run with another configuration is refused.
        sites: a folder of site folders; None: a synthetic world's are generated in ``out``.
        config: the federation's configuration (:func:`fedsteph.load_config`); None: configs/simulate.yaml for a
            synthetic world, the preset ``robust`` for other sites.
        engine: Flower's simulation engine with parallel processes, or this process alone. The results are the same.
        world: name of the synthetic world (docs/simulate.md lists them); None: the first of them.

    Returns:
        the content of ``results.json`` in the run folder: ``targets`` by name, ``failures`` of sites, ``seconds`` by
        phase, and ``communication`` in bytes. The models are in ``OUT/sites/NAME``.

    Raises:
        DataError: the sites' data have problems; all of them are listed.
        ConfigError, RunFolderError: the configuration does not fit the sites or the run folder, or there is no such
            world.
        QuorumError: fewer sites were left than the quorum.
        EngineError: Flower failed.
    """
    folder, parent = Path(out).resolve(), None if sites is None else Path(sites)
    if parent is not None:
        refuse_among_sites(folder, parent)
    with exclusive(folder, wait=False):
        prepared, problems = prepare_run(folder, parent, config or configured(parent), world=world)
        for problem in problems:
            _log.warning("%s: %s. %s", problem.where, problem.what, problem.remedy)
        return run(prepared, engine).to_dict()


def prepare_run(
    out: Path, sites: Path | None, config: Config, progress: NamedProgress = unseen, world: str | None = None
) -> tuple[RunFolder, list[Problem]]:
    """Find the sites, or make those of a synthetic world if ``sites`` is None.

    The target of a world also trains the comparators that its world names. Results, progress and errors as
    :func:`prepare`; ConfigError for an unknown world, or for a world and sites at once.
    """
    if sites is not None:
        if world is not None:
            raise ConfigError("sites and a world are given", where="--sites, --world", remedy="Leave one of them out")
        return prepare(out, config, site_folders(sites), progress)
    made = world_of(DEFAULT_WORLD if world is None else world)
    methods = tuple(dict.fromkeys([*config.comparators.methods, *made.comparators]))
    config = replace(config, comparators=replace(config.comparators, methods=methods))
    return prepare(out, config, synthetic_sites(out, made, config.training.seed), progress)


def configured(sites: Path | None, path: Path | None = None, overrides: Sequence[str] | None = None) -> Config:
    """Load a simulation's configuration; without ``path`` the default for a synthetic world or for ``sites``."""
    if sites is None and path is None:
        path = config_folder() / "simulate.yaml"
    return load_config(path, overrides)


def read_results(folder: Path | str) -> dict[str, Any]:
    """Read the results of a simulation, of a benchmark, or of one target.

    Args:
        folder: a run's or benchmark's folder, or a target's state folder.

    Raises:
        RunFolderError: the folder holds no results, or they are damaged.
    """
    path = next((p for name in (RESULTS_FILE, RESULT_FILE) if (p := Path(folder) / name).is_file()), None)
    if path is None:
        remedy = f"Give the folder that has {RESULTS_FILE}, or a target's state folder with {RESULT_FILE}"
        raise RunFolderError("holds no results", where=folder, remedy=remedy)
    return checked_file.read_json(path, RunFolderError, "Run the same again: it ends at once")


def run(folder: RunFolder, engine: Engine, flower: Callable[[], None] | None = None) -> RunResults:
    """Run or resume a prepared federation, and write ``results.json`` and ``summary.md``.

    ``flower``: what runs it where Flower's engine has been started (:func:`.flower_engine.started`).

    Returns the results; failed sites are listed in ``failures``. Raises QuorumError if fewer sites were left than the
    quorum; EngineError if Flower failed; StorageError if this machine's disk is full.
    """
    (folder.path / "server" / OUTCOME_FILE).unlink(missing_ok=True)
    parties = [folder.path / "server", *(folder.site_state(site.name) for site in folder.sites)]
    with watching(parties):
        _run_engine(folder, engine, flower)
    results = _gather(folder, Outcome.read(folder.path))
    checked_file.write_json(folder.path / RESULTS_FILE, results.to_dict())
    atomic.write_text(folder.path / SUMMARY_FILE, summary(folder, results))
    return results


def _run_engine(folder: RunFolder, engine: Engine, flower: Callable[[], None] | None) -> None:
    try:
        if flower is not None:
            flower()
        elif engine == "flower":
            run_with_flower(folder.path)
        else:
            run_in_process(folder.path)
    except (EngineError, QuorumError) as error:
        require_room(folder.path)
        # Flower reports only that the run failed; the server has written the cause to its outcome file.
        if not (folder.path / "server" / OUTCOME_FILE).exists() or (outcome := Outcome.read(folder.path)).error is None:
            raise
        _require_disk(folder, outcome.failures)
        failed = {failure.site for failure in outcome.failures}
        logs = [str(log) for name in sorted(failed) if (log := folder.site_state(name) / "site.log").exists()]
        raise QuorumError(str(outcome.error), remedy=f"Logs: {', '.join(logs)}" if logs else None) from error


def _gather(folder: RunFolder, outcome: Outcome) -> RunResults:
    """The results of all targets, unrounded, read from the targets' own state folders."""
    targets = {}
    for site in folder.sites:
        if site.name in outcome.targets:
            files = TargetFiles.open(folder.site_state(site.name))
            result = files.result
            result.methods.update(truth_rows(files, site, folder.sites, folder.config))
            targets[site.name] = result
    return RunResults(targets, outcome.failures, outcome.bytes, outcome.seconds)


def require_no_failure(folder: RunFolder, results: RunResults) -> None:
    """Raise SiteError for the first failed site, with its log and the results; StorageError for a disk here."""
    _require_disk(folder, results.failures)
    for failure in results.failures:
        log = folder.site_state(failure.site) / "site.log"
        hint = f"Its log: {log}. " if log.exists() else ""
        remedy = f"{hint}The other sites' results: {folder.path / RESULTS_FILE}"
        raise SiteError(f"failed in {failure.phase}: {failure.reason}", where=f"site {failure.site}", remedy=remedy)


def _require_disk(folder: RunFolder, failures: Sequence[Failure]) -> None:
    """A deployed site keeps to itself what failed on its disk; a simulated one has this machine's."""
    for failure in failures:
        if failure.reason.endswith(f"({StorageError.__name__})"):
            state = folder.site_state(failure.site)
            what = f"cannot be read or written in {failure.phase} ({free_bytes(state) / 2**20:,.1f} MiB are free there)"
            raise StorageError(what, where=state, remedy="Make room there and start the same command again")
