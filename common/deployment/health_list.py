"""The one list of what ``fedsteph health`` may tell: metrics with their labels, and reasons. All else is refused.

Nothing on it is about patients: no count of them, no score, no exact epsilon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.wire import protocol

PHASES = (protocol.HELLO, protocol.LOCAL, protocol.AVERAGE, protocol.SHARE, protocol.MERGE)
OUTCOMES = ("done", "partly", "failed", "stopped", "unfinished", "damaged")
CERTIFICATES = ("server", "ca")
EPSILONS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # upper ends of the ledger's buckets; beyond: no bound

REASONS = {
    "start": "it has not looked yet",
    "status": "the status could not be read: see the log of 'fedsteph health'",
    "superlink": "the SuperLink does not answer",
    "site": "a site of the current run is not connected, or has failed",
    "deadline": "the deadline of the current phase is near",
    "certificate": "a certificate has expired or cannot be read",
    "disk": "the disk is almost full",
    "node": "the SuperNode or the SuperExec does not run",
    "server": "the coordinator's server cannot be reached",
    "doctor": "a check of 'fedsteph doctor site' fails",
}


@dataclass(frozen=True)
class Problem:
    """Why something is not well: ``kind`` of :data:`REASONS`, and ``text`` for the person at this machine alone."""

    kind: str
    text: str


@dataclass(frozen=True)
class Metric:
    """One gauge: its name, its help, and for each label a pattern of its values."""

    name: str
    help: str
    labels: dict[str, re.Pattern[str]] = field(default_factory=dict)


def _words(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("fedsteph_up", "1: all is well, as /healthz says it; 0: something is not"),
        Metric("fedsteph_looked_seconds", "Unix time of the last look at the installation"),
        Metric("fedsteph_sites_connected", "sites of the roster that are connected to the SuperLink"),
        Metric("fedsteph_site_connected", "1: the site is connected; 0: it is not", {"site": SITE_NAME}),
        Metric(
            "fedsteph_site_seen_seconds", "seconds since the site was last connected; 0: it is", {"site": SITE_NAME}
        ),
        Metric("fedsteph_run_phase", "1: the phase that the current run is in", {"phase": _words(*PHASES)}),
        Metric("fedsteph_last_run_end_seconds", "Unix time of the end of the last run that ended"),
        Metric("fedsteph_last_run_outcome", "1: how the last run ended", {"outcome": _words(*OUTCOMES)}),
        Metric("fedsteph_server_reachable", "1: the site reaches the coordinator's server; 0: it does not"),
        Metric(
            "fedsteph_certificate_days",
            "days until the certificate expires; below 0: since",
            {"certificate": _words(*CERTIFICATES)},
        ),
        Metric("fedsteph_disk_free_bytes", "bytes free on the disk of the state or of the runs"),
        Metric(
            "fedsteph_ledger_epsilon_at_most", "upper end of the bucket that the ledger's epsilon is in; +Inf: none"
        ),
        Metric("fedsteph_kept_vectors", "vectors of other sites that the site keeps"),
    )
}


@dataclass(frozen=True)
class Sample:
    """One value of a metric of the list.

    Raises ValueError for a metric that is not on the list, other labels than its own, or a value of a label that does
    not have its pattern.
    """

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        listed = METRICS.get(self.name)
        if listed is None:
            raise ValueError(f"{self.name} is not on the list of metrics")
        if self.labels.keys() != listed.labels.keys():
            raise ValueError(f"{self.name} has the labels {', '.join(listed.labels) or 'none'}")
        for key, value in self.labels.items():
            if listed.labels[key].fullmatch(value) is None:
                raise ValueError(f"{value!r} is no {key} of {self.name}")


@dataclass(frozen=True)
class Health:
    """One look: the samples, and the first reason why something is not well (a key of :data:`REASONS`; None: well)."""

    samples: Sequence[Sample] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.reason is not None and self.reason not in REASONS:
            raise ValueError(f"{self.reason} is not on the list of reasons")


def bucket(epsilon: float) -> float:
    """The smallest of :data:`EPSILONS` that is at least ``epsilon``; infinite beyond the last."""
    return next((upper for upper in EPSILONS if epsilon <= upper), float("inf"))
