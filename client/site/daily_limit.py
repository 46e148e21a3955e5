"""The policy's limits on runs and merges per day, counted from the site's audit log: no restart resets them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from fedsteph.client.site.site import Site
from fedsteph.common.errors import DailyPolicyError
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.wire import protocol

_DAY = timedelta(days=1)
_ACTIONS = (protocol.HELLO, protocol.LOCAL, protocol.AVERAGE, protocol.SHARE, protocol.DELIVER, protocol.MERGE)


def require_within_limits(site: Site, action: str, run: str) -> None:
    """Refuse a request that goes beyond ``policy.max_runs_per_day`` or ``max_merges_per_day``.

    What was answered counts, for 24 hours; a run in which this site has answered before may go on. A line of the log
    from the future counts too, so a clock that is set back opens no limit.

    Raises:
        DailyPolicyError: it does.
        AuditError: the audit log is damaged.
    """
    policy = site.require_policy()
    if policy.max_runs_per_day is None and policy.max_merges_per_day is None:
        return  # without reading the log, which may be long
    # client.app writes such a line once an answer is made, and before it leaves.
    lines = read_lines(site.audit.folder)
    answers = [line for line in lines if line.event.event in _ACTIONS and line.event.decision == "allowed"]
    begin = datetime.now(UTC) - _DAY
    today = [line for line in answers if datetime.fromisoformat(line.time) > begin]
    if run not in {line.event.run for line in answers}:
        _require("max_runs_per_day", policy.max_runs_per_day, [line.event.run for line in today])
    if action == protocol.MERGE:
        merges = [line.number for line in today if line.event.event == protocol.MERGE]
        _require("max_merges_per_day", policy.max_merges_per_day, merges)


def _require(key: str, most: int | None, answered: Sequence[object]) -> None:
    if most is not None and len({*answered}) >= most:
        raise DailyPolicyError(
            f"{len({*answered})} were answered in the last 24 hours",
            where=f"policy.{key}",
            remedy="Wait, or raise the limit: each answer tells the coordinator a little about the same patients",
        )
