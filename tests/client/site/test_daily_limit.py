"""How many runs and merges a site answers per day: counted from its audit log, whatever its clock does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fedsteph.client.site import daily_limit
from fedsteph.client.site.daily_limit import require_within_limits
from fedsteph.client.site.site import Site
from fedsteph.common.errors import AuditError, DailyPolicyError
from fedsteph.common.trust import audit_log
from fedsteph.common.trust.audit_log import FILE, Event
from fedsteph.common.wire.protocol import AVERAGE, HELLO, LOCAL, MERGE, SHARE


@pytest.fixture
def at(monkeypatch):
    """Sets the machine's clock, in hours."""
    hours = [0.0]

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hours[0])

    for module in (audit_log, daily_limit):
        monkeypatch.setattr(module, "datetime", Clock)
    return lambda now: hours.__setitem__(0, now)


@pytest.fixture
def site(tmp_path):
    """Makes a site with a policy; ``answer`` and ``refused`` speak for the messages that it gets."""

    def make(policy: str) -> Site:
        (tmp_path / "site.yaml").write_text(f"name: a\nstate: kept\npolicy: {policy}\n")
        return Site.open(tmp_path)

    return make


def answer(site: Site, run: str, *actions: str) -> None:
    for action in actions:
        require_within_limits(site, action, run)
        site.audit.append(Event(action, "allowed", run))


def refused(site: Site, run: str, action: str = HELLO) -> bool:
    try:
        require_within_limits(site, action, run)
    except DailyPolicyError as error:
        assert error.remedy and error.where.startswith("policy.max_")
        return True
    return False


def test_without_limits_the_log_is_not_even_read(site):
    unlimited = site("{}")
    answer(unlimited, "r1", HELLO)
    (unlimited.audit.folder / FILE).write_text("junk\n")
    require_within_limits(unlimited, MERGE, "r2")
    with pytest.raises(AuditError):
        require_within_limits(site("{max_runs_per_day: 1}"), MERGE, "r2")


def test_a_run_more_is_refused_in_every_phase_and_a_known_one_goes_on(site, at):
    limited = site("{max_runs_per_day: 2}")
    answer(limited, "r1", HELLO, LOCAL, AVERAGE, SHARE, MERGE)
    at(20)
    answer(limited, "r2", HELLO)
    assert all(refused(limited, "r3", action) for action in (HELLO, LOCAL, AVERAGE, SHARE, MERGE))
    at(23.9)
    assert refused(site("{max_runs_per_day: 2}"), "r3"), "a restart resets nothing"
    at(24.1)
    answer(limited, "r3", HELLO)
    assert refused(limited, "r4")
    at(40)
    answer(limited, "r1", MERGE)


def test_only_answers_count(site, at):
    limited = site("{max_runs_per_day: 1, max_merges_per_day: 1}")
    for decision in ("refused", "failed", "noted"):
        limited.audit.append(Event(MERGE, decision, "r0"))
    limited.audit.append(Event("vector.seal", "allowed", "r0"))
    answer(limited, "r1", HELLO, MERGE)
    assert refused(limited, "r1", MERGE) and not refused(limited, "r1", SHARE)


def test_every_merge_counts_also_of_one_run(site, at):
    limited = site("{max_merges_per_day: 3}")
    answer(limited, "r1", HELLO, MERGE, MERGE)
    answer(limited, "r2", HELLO, MERGE)
    assert refused(limited, "r2", MERGE) and refused(limited, "r3", MERGE) and not refused(limited, "r3")
    at(24.1)
    answer(limited, "r3", MERGE)


def test_a_clock_that_is_set_back_opens_no_limit(site, at):
    limited = site("{max_runs_per_day: 1, max_merges_per_day: 1}")
    answer(limited, "r1", HELLO, MERGE)
    for hours in (-1, -30, -10_000, 23.9):
        at(hours)
        assert refused(limited, "r2") and refused(limited, "r1", MERGE)
    at(24.1)
    assert not refused(limited, "r2")
