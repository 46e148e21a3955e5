"""What ``fedsteph health`` tells of a site: samples of the list of metrics, and the first reason."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from fedsteph.client.deployment.site_status import SiteStatus
from fedsteph.common.deployment.health_list import Health, Sample, bucket


def site_health(status: SiteStatus) -> Health:
    """The allowed part of a status: no patient number, and of the ledger's epsilon a bucket."""
    return Health([*_samples(status)], status.problems[0].kind if status.problems else None)


def _samples(status: SiteStatus) -> Iterator[Sample]:
    yield Sample("fedsteph_up", float(not status.problems))
    yield Sample("fedsteph_looked_seconds", time.time())
    if status.connection.reachable is not None:
        yield Sample("fedsteph_server_reachable", float(status.connection.reachable))
    for name, left in status.connection.certificate_days.items():
        if left is not None:
            yield Sample("fedsteph_certificate_days", left, {"certificate": name})
    yield Sample("fedsteph_disk_free_bytes", status.disk_free)
    yield Sample("fedsteph_kept_vectors", status.kept.count)
    yield Sample("fedsteph_ledger_epsilon_at_most", math.inf if status.epsilon is None else bucket(status.epsilon))
