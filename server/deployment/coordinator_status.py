"""What ``fedsteph status`` shows at the coordinator: SuperLink, sites, roster, the current run and the last ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from fedsteph.common.config.run_config import load_config
from fedsteph.common.deployment.certificate_days import days_left
from fedsteph.common.deployment.checks import disk
from fedsteph.common.deployment.flower_programs import Flower
from fedsteph.common.deployment.health_list import Problem
from fedsteph.common.deployment.tls import ask
from fedsteph.common.errors import DeploymentError, FedstephError
from fedsteph.common.host.disk import free_bytes
from fedsteph.common.trust.roster import read_roster
from fedsteph.server.deployment.connected_sites import ConnectedSite, connected_sites
from fedsteph.server.deployment.run_history import (
    CurrentRun,
    EndedRun,
    current_run,
    ended_run,
    is_over,
    newest_first,
    progress_of,
)
from fedsteph.server.deployment.server_file import ServerFile

T = TypeVar("T")
_LAST = 5  # runs that are shown
_LOOKED_AT = 20  # runs that may tell which node is which site
_DISK_GB = 5.0


@dataclass(frozen=True)
class CoordinatorStatus:
    """One look at a coordinator's folder and its SuperLink."""

    federation: str
    software: str  # the coordinator's own fedsteph
    superlink: str | None  # why it does not answer; None: it answers
    roster: str  # digest
    revoked: tuple[str, ...]  # sites with revoked keys
    sites: tuple[ConnectedSite, ...]
    current: CurrentRun | None
    runs: tuple[EndedRun, ...]  # the last ones, the newest first
    certificate_days: dict[str, int | None]  # None: it cannot be read
    disk_free: int  # bytes
    problems: tuple[Problem, ...] = ()  # what is not well; empty: all is


def coordinator_status(server: ServerFile) -> CoordinatorStatus:
    """Look once.

    Raises:
        ConfigError: the configuration or the roster is not there yet, or has a fault.
        RosterError: the roster is damaged.
    """
    server.require_ready()
    roster, config = read_roster(server.roster), load_config(server.config)
    folders = newest_first(server.runs)
    flower, silence = Flower(server.flwr_home, server.flwr_home.parent), _silence(server)
    nodes, silence = _asked(flower.nodes, silence)
    statuses = None
    if not all(map(is_over, folders[:_LAST])):  # only Flower knows how these are
        statuses, silence = _asked(flower.statuses, silence)
    found = current_run(folders[:_LAST], statuses)
    told = [status for path in folders[:_LOOKED_AT] if (status := progress_of(path)) is not None]
    names = dict.fromkeys([*(entry.site for entry in roster.sites), *config.federation.sites])
    sites = connected_sites(server, [*names], told, nodes)
    current = None if found is None else found[1]
    days = {"server": _days(server.certificate), "ca": _days(server.ca)}
    return CoordinatorStatus(
        roster.federation,
        version("fedsteph"),
        silence,
        roster.digest,
        tuple(dict.fromkeys(one.site for one in roster.revoked)),
        sites,
        current,
        tuple(ended_run(path, statuses) for path in folders[:_LAST] if found is None or path != found[0]),
        days,
        free_bytes(server.runs),
        tuple(_problems(server, silence, sites, current, days)),
    )


def _silence(server: ServerFile) -> str | None:
    """Why the SuperLink does not answer; asked first, because Flower waits long for one that is not there."""
    try:
        ask(server.superlink, server.ca)
    except FedstephError as error:
        return error.sentence
    return None


def _asked(question: Callable[[], T], silence: str | None) -> tuple[T | None, str | None]:
    if silence is not None:
        return None, silence
    try:
        return question(), None
    except FedstephError as error:
        return None, error.sentence


def _days(certificate: Path) -> int | None:
    try:
        return days_left(certificate)
    except DeploymentError:
        return None


def _problems(
    server: ServerFile,
    silence: str | None,
    sites: Sequence[ConnectedSite],
    current: CurrentRun | None,
    days: dict[str, int | None],
) -> Iterator[Problem]:
    if silence is not None:
        yield Problem("superlink", silence)
    if current is not None:
        yield from _missing(sites, current)
        if current.is_late(datetime.now(UTC)):
            yield Problem("deadline", f"{current.phase} ends at {current.until}, and not all have answered")
    for name, left in days.items():
        if left is None or left < 0:
            yield Problem(
                "certificate", f"the {name} certificate {'cannot be read' if left is None else 'has expired'}"
            )
    if disk(server.runs, _DISK_GB).verdict == "FAIL":
        yield Problem("disk", f"the disk of {server.runs} is almost full")


def _missing(sites: Sequence[ConnectedSite], current: CurrentRun) -> Iterator[Problem]:
    by_name = {one.site: one for one in sites}
    for name in (*current.sites, *current.awaited):
        progress, site = current.sites.get(name), by_name.get(name)
        if progress is not None and progress.has_failed:
            yield Problem("site", f"{name} failed in {progress.phase}: {progress.said}")
        elif site is not None and site.connected is False:
            yield Problem("site", f"{name} is not connected")
