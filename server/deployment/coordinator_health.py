"""What ``fedsteph health`` tells of a coordinator: samples of the list of metrics, and the first reason."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from fedsteph.common.deployment.health_list import PHASES, Health, Sample
from fedsteph.server.deployment.coordinator_status import CoordinatorStatus


def coordinator_health(status: CoordinatorStatus) -> Health:
    """The allowed part of a status."""
    reason = status.problems[0].kind if status.problems else None
    return Health([*_samples(status)], reason)


def _samples(status: CoordinatorStatus) -> Iterator[Sample]:
    now = datetime.now(UTC)
    yield Sample("fedsteph_up", float(not status.problems))
    yield Sample("fedsteph_looked_seconds", now.timestamp())
    if status.superlink is None:  # nobody else knows
        yield Sample("fedsteph_sites_connected", sum(one.connected is True for one in status.sites))
    for one in status.sites:
        if one.connected is not None:
            yield Sample("fedsteph_site_connected", float(one.connected), {"site": one.site})
        if (unseen := one.seconds_unseen(now)) is not None:
            yield Sample("fedsteph_site_seen_seconds", round(unseen), {"site": one.site})
    if status.current is not None and status.current.phase in PHASES:
        yield Sample("fedsteph_run_phase", 1.0, {"phase": status.current.phase})
    ended = next((one for one in status.runs if one.ended is not None), None)
    if ended is not None and ended.ended is not None:
        yield Sample("fedsteph_last_run_end_seconds", datetime.fromisoformat(ended.ended).timestamp())
    if status.runs:
        yield Sample("fedsteph_last_run_outcome", 1.0, {"outcome": status.runs[0].outcome})
    for name, left in status.certificate_days.items():
        if left is not None:
            yield Sample("fedsteph_certificate_days", left, {"certificate": name})
    yield Sample("fedsteph_disk_free_bytes", status.disk_free)
