"""What ``fedsteph status`` shows at a site: connection, last run, ledger, kept vectors, disk, certificates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from fedsteph.client.deployment.files_at_rest import at_rest
from fedsteph.client.deployment.node_processes import node_processes
from fedsteph.client.privacy.ledger import Ledger, total
from fedsteph.client.sharing.kept_record import FOLDER, SUFFIX, read_kept
from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.site import Site
from fedsteph.common.deployment.certificate_days import days_left
from fedsteph.common.deployment.checks import Check, check, disk
from fedsteph.common.deployment.health_list import Problem
from fedsteph.common.deployment.tls import ask
from fedsteph.common.errors import FedstephError, MembershipError, VectorError
from fedsteph.common.host.disk import free_bytes
from fedsteph.common.trust.audit_log import Line, read_lines

_DISK_GB = 5.0


@dataclass(frozen=True)
class Connection:
    """The site's processes, and its way to the server."""

    supernode: bool
    superexec: bool | None  # None: without a SuperNode nobody can tell
    server: str | None  # its address; None: site.yaml names none
    reachable: bool | None
    told: str | None  # why it is not reachable
    certificate_days: dict[str, int | None]  # of the server as it is presented, and of the CA; None: not known


@dataclass(frozen=True)
class Noted:
    """A line of the audit log."""

    time: str
    run: str | None
    event: str
    decision: str
    reason: str | None


@dataclass(frozen=True)
class Kept:
    """The kept vectors of other sites."""

    count: int
    oldest_expiry: str | None  # ISO 8601, UTC: when the first of them has to go; None: none has to
    damaged: int


@dataclass(frozen=True)
class SiteStatus:
    """One look at a site's folder and this machine."""

    site: str
    software: str
    connection: Connection
    last_run: Noted | None  # the newest line of the audit log that is about a run
    last_decision: Noted | None  # its newest line of a decision
    ledger: str  # what all sharings cost together, or why it cannot be told
    epsilon: float | None  # the same; None: no bound, or it cannot be told
    kept: Kept
    disk_free: int  # bytes, where the state is
    warnings: tuple[Check, ...]  # what the doctor would warn of, or call a failure
    problems: tuple[Problem, ...] = ()  # what is not well; empty: all is


def site_status(site: Site) -> SiteStatus:
    """Look once. Raises MembershipError if the site takes part in no federation."""
    file = site.file.federation
    if file is None:
        raise MembershipError(
            "takes part in no federation, so that it has no status",
            where=site.folder,
            remedy="Add the sections federation and policy to site.yaml: docs/deployment.md",
        )
    connection = _connection(site, file)
    run, decision = _last_lines(site)
    ledger, epsilon = _spent(site)
    checks = [check("membership", lambda: site.membership().site), *at_rest(site, file), disk(site.state, _DISK_GB)]
    warnings = tuple(one for one in checks if one.verdict != "PASS")
    return SiteStatus(
        site.name,
        version("fedsteph"),
        connection,
        run,
        decision,
        ledger,
        epsilon,
        _kept(site.state / FOLDER),
        free_bytes(site.state),
        warnings,
        tuple(_problems(connection, warnings)),
    )


def _connection(site: Site, file: MembershipFile) -> Connection:
    node, executor = node_processes(site)
    if file.server is None or file.ca is None:
        return Connection(node, executor, file.server, None, None, {"server": None, "ca": None})
    ca = site.folder / file.ca
    days = {"server": None, "ca": _days(ca)}
    try:
        answer = ask(file.server, ca)
    except FedstephError as error:
        return Connection(node, executor, file.server, False, error.sentence, days)
    days["server"] = (answer.expires - datetime.now(UTC)).days
    return Connection(node, executor, file.server, True, None, days)


def _days(certificate: Path) -> int | None:
    try:
        return days_left(certificate)
    except FedstephError:
        return None


def _last_lines(site: Site) -> tuple[Noted | None, Noted | None]:
    run = decision = None
    try:
        for line in read_lines(site.audit.folder):
            if line.event.run is not None:
                run = line
            if line.event.decision != "noted":
                decision = line
    except FedstephError:  # a damaged log is a row of the warnings
        pass
    return _noted(run), _noted(decision)


def _noted(line: Line | None) -> Noted | None:
    if line is None:
        return None
    event = line.event
    return Noted(line.time, event.run, event.event, event.decision, event.reason)


def _spent(site: Site) -> tuple[str, float | None]:
    try:
        spent = total(Ledger(site.audit).entries())
    except FedstephError as error:
        return error.sentence, None
    return str(spent), None if math.isinf(spent.epsilon) else round(spent.epsilon, 2)


def _kept(folder: Path) -> Kept:
    count, damaged, ends = 0, 0, []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            record, _ = read_kept(path)
        except VectorError:
            damaged += 1
            continue
        except FileNotFoundError:  # removed since
            continue
        count += 1
        ends += [record.until] if record.until is not None else []
    oldest = min(ends).isoformat(timespec="seconds") if ends else None
    return Kept(count, oldest, damaged)


def _problems(connection: Connection, warnings: tuple[Check, ...]) -> Iterator[Problem]:
    if not (connection.supernode and connection.superexec):
        missing = "SuperExec" if connection.supernode else "SuperNode"
        yield Problem("node", f"no {missing} of this site runs here, as far as this account can see")
    if connection.reachable is False:
        yield Problem("server", str(connection.told))
    for name, left in connection.certificate_days.items():
        if left is not None and left < 0:
            yield Problem("certificate", f"the {name} certificate has expired")
    failed = [one.name for one in warnings if one.verdict == "FAIL"]
    if full := [name for name in failed if name.startswith("disk")]:
        yield Problem("disk", f"{full[0]} is almost full")
    if others := [name for name in failed if name not in full]:
        yield Problem("doctor", f"failed checks: {', '.join(others)}")
