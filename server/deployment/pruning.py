"""Removes a coordinator's old run folders and rotated logs, and compacts its database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from datetime import timedelta
from pathlib import Path

from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import ConfigError, DeploymentError, RunFolderError
from fedsteph.common.host.pruned import Old, Pruning, half_removed, last_change, remove, rotated, size_of
from fedsteph.server.deployment.deployed_run import RESULTS_FILE
from fedsteph.server.deployment.run_history import is_over
from fedsteph.server.deployment.server_file import ServerFile
from fedsteph.server.deployment.superlink_database import compact
from fedsteph.server.manifest import CONFIG_FILE, MANIFEST_FILE, read_manifest

LOG_FILE = "superlink.log"
_REST_SECONDS = 3600.0  # between two phases, at most


@dataclass(frozen=True)
class _Run:
    """A run folder: its configuration's digest, whether it has results, whether it has ended, its last change."""

    path: Path
    config: str
    has_results: bool
    is_over: bool
    changed: float


def prune_server(server: ServerFile, older_than: timedelta, *, dry_run: bool = False) -> Pruning:
    """Remove run folders and rotated logs in which nothing has changed for so long, and compact the database.

    Run folders that stay whatever their age: one that may still run, one that cannot be read, and of every
    configuration the last one with results, or, if none has any, the last that has ended. The database is compacted
    only while the SuperLink is stopped.

    Args:
        dry_run: tell only what would go.

    Raises:
        StorageError: something cannot be removed.
    """
    found, before = Pruning(), time.time() - older_than.total_seconds()
    runs = [*_runs(server.runs, found)]
    last = _last_of_each(runs)
    for run in runs:
        if run.changed >= before:
            continue
        if (reason := _why_it_stays(run, last)) is None:
            found.gone.append(Old(run.path, "run", size_of(run.path)))
        else:
            found.kept[run.path] = reason
    leftovers = (*server.runs.glob(".*.part"), *rotated(server.logs / LOG_FILE))
    found.gone += [
        Old(path, "leftover or rotated log", size_of(path)) for path in leftovers if last_change(path) < before
    ]
    found.gone += [Old(path, "half removed", size_of(path)) for path in half_removed(server.runs)]
    if not dry_run:
        remove(found.gone)
    if server.database.exists():
        try:
            if freed := compact(server.database, server.superlink, dry_run=dry_run):
                found.gone.append(Old(server.database, "compacted, its runs stay", freed))
        except DeploymentError as error:
            found.kept[server.database] = f"not compacted: {error.sentence}"
    return found


def _runs(folder: Path, found: Pruning) -> Iterator[_Run]:
    for path in sorted(folder.glob("*")):
        if path.name.startswith(".") or not (path / MANIFEST_FILE).is_file():
            continue
        try:
            config = str(read_manifest(path)["digests"]["config"])
        except (RunFolderError, KeyError):
            found.kept[path] = "its manifest cannot be read"
            continue
        results = (path / RESULTS_FILE).exists()
        yield _Run(path, config, results, results or is_over(path), last_change(path))


def _last_of_each(runs: list[_Run]) -> set[Path]:
    """Of every configuration the last run with results, or the last that has ended; names begin with the time."""
    last: dict[str, _Run] = {}
    for run in sorted(runs, key=lambda run: (run.has_results, run.path.name)):
        if run.is_over:
            last[run.config] = run
    return {run.path for run in last.values()}


def _why_it_stays(run: _Run, last: set[Path]) -> str | None:
    if run.path in last:
        return "the last of its configuration"
    if run.is_over:
        return None
    try:
        longest = max(astuple(load_config(run.path / CONFIG_FILE).federation.deadlines))
    except ConfigError:
        return "its configuration cannot be read"
    # A phase ends by its deadline, and then something is written.
    return "it may still run" if time.time() - run.changed < longest + _REST_SECONDS else None
