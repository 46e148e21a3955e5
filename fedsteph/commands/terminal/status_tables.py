"""Prints the status of a coordinator or of a site on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.deployment.site_status import Noted, SiteStatus
    from fedsteph.common.deployment.health_list import Problem
    from fedsteph.server.deployment.coordinator_status import CoordinatorStatus
    from fedsteph.server.deployment.run_history import CurrentRun

_SOON_DAYS = 30
_CONNECTED = {True: "yes", False: "no", None: "not known"}


def show_coordinator(status: CoordinatorStatus) -> None:
    """A coordinator's."""
    console.say(f"federation {status.federation}, fedsteph {status.software}")
    console.say(f"SuperLink   {'answers' if status.superlink is None else 'does not answer'}")
    away = [one.site for one in status.sites if one.connected is False]
    console.say(f"roster      {status.roster[:12]}..., {len(status.sites)} sites; not connected: {_listed(away)}")
    if status.revoked:
        console.say(f"revoked     keys of {', '.join(status.revoked)}")
    console.say(f"certificate {_days(status.certificate_days)}")
    console.say(f"disk        {status.disk_free / 1e9:.1f} GB free")
    rows = [
        [s.site, _CONNECTED[s.connected], _time(s.last_seen), s.software or "-", s.node or "-"] for s in status.sites
    ]
    _table(["site", "connected", "last seen (UTC)", "fedsteph", "Flower's node"], rows)
    if status.current is not None:
        _show_current(status.current)
    runs = [[r.run, r.flower or "-", _time(r.begun), _time(r.ended), r.outcome, r.told or ""] for r in status.runs]
    _table(["last runs", "in Flower", "begun (UTC)", "ended (UTC)", "outcome", ""], runs)
    _show_problems(status.problems)


def _show_current(run: CurrentRun) -> None:
    console.say(f"\ncurrent run {run.run}; in Flower's own lists and logs: {run.flower or 'not known'}")
    if run.phase:
        text = f"{run.phase}: {run.n_answered} of {len(run.asked)} answered; since {_time(run.since)}"
        console.say(f"phase       {text}, until {_time(run.until)} (UTC)")
    else:
        console.say("phase       it has not begun")
    rows = [[name, s.phase, s.said, _time(s.asked), _time(s.answered)] for name, s in run.sites.items()]
    rows += [[name, "-", "has not joined", "-", "-"] for name in run.awaited]
    _table(["site", "phase", "so far", "asked (UTC)", "answered (UTC)"], rows)


def show_site(status: SiteStatus) -> None:
    """A site's."""
    found = status.connection
    console.say(f"site {status.site}, fedsteph {status.software}")
    console.say(f"SuperNode   {'runs' if found.supernode else 'does not run'}; SuperExec: {_runs(found.superexec)}")
    reachable = {True: "is reached", False: "is not reached", None: "not checked"}[found.reachable]
    console.say(f"server      {found.server or 'not named'}: {reachable}")
    console.say(f"certificate {_days(found.certificate_days)}")
    console.say(f"last run    {_noted(status.last_run)}")
    console.say(f"decision    {_noted(status.last_decision)}")
    console.say(f"ledger      {status.ledger}")
    damaged = f"; damaged: {status.kept.damaged}" if status.kept.damaged else ""
    expiry = f"; the first has to go at {_time(status.kept.oldest_expiry)} (UTC)" if status.kept.oldest_expiry else ""
    console.say(f"kept        {status.kept.count} vectors of other sites{expiry}{damaged}")
    console.say(f"disk        {status.disk_free / 1e9:.1f} GB free")
    for one in status.warnings:
        console.say(f"{one.verdict}  {one.name}: {one.found}" + (f" -> {one.remedy}" if one.remedy else ""))
    _show_problems(status.problems)


def _show_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        console.out.print("not well", style="red", end="  ")
        console.say(problem.text)
    if not problems:
        console.out.print("all is well", style="green")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Plain columns: texts of others are no markup, and no line is broken, so that names can be copied.
    if not rows:
        return
    console.say("")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        console.say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _noted(line: Noted | None) -> str:
    if line is None:
        return "none yet"
    words = [_time(line.time), line.run or "", line.event, line.decision, line.reason or ""]
    return " ".join(word for word in words if word)


def _runs(superexec: bool | None) -> str:
    return {True: "runs", False: "does not run", None: "not known"}[superexec]


def _days(days: Mapping[str, int | None]) -> str:
    found = []
    for name, left in days.items():
        soon = ": renew it soon" if left is not None and left < _SOON_DAYS else ""
        found.append(f"{name} {'not known' if left is None else f'{left} days left'}{soon}")
    return ", ".join(found)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _time(text: str | None) -> str:
    """An ISO 8601 time to the second."""
    return "-" if not text else f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"
