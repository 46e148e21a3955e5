"""A SuperLink that is killed and comes back, and a site that is killed and does not."""

from __future__ import annotations

import pytest
from deployment import TARGET
from lost_sites import FILE_LIMIT, FULL, GOOD, models

pytestmark = pytest.mark.flower


def test_a_run_survives_the_superlink_and_goes_on_without_a_site_that_dies(second_run):
    """The SuperLink starts again with its database; the dead source is named with its phase, the other is enough."""
    run = second_run.run
    assert second_run.code == 2, run.said
    assert set(run.results["targets"]) == {TARGET} and set(run.results["sites"]) >= {TARGET, FULL}
    assert set(run.failures) == {GOOD}
    phase, reason = run.failures[GOOD]
    assert phase == "train.share"
    assert reason in ("no answer within 20 s", "it had not answered when the message expired")
    assert f"{GOOD} failed in train.share" in run.said.splitlines()[-1]


def test_with_room_again_the_same_site_completes(deployment, second_run):
    """What the others had trained is taken up again."""
    assert second_run.trained
    assert {path: path.stat().st_mtime_ns for path in models(deployment, TARGET)} == second_run.trained
    opened = [line.event for line in deployment.audit(deployment.site(TARGET), second_run.run)]
    assert [event.peer for event in opened if event.event == "vector.open"] == [FULL]
    relayed = [line.event for line in deployment.audit(deployment.server, second_run.run)]
    [relayed] = [event for event in relayed if (event.event, event.peer) == ("envelope.relay", f"{FULL} -> {TARGET}")]
    assert relayed.size is not None and relayed.size > FILE_LIMIT
