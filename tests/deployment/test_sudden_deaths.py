"""``kill -9`` of sites, which do not come back."""

from __future__ import annotations

import time

import pytest
from deployment import SEED_DEATHS, TARGET

pytestmark = pytest.mark.flower


def test_a_run_goes_on_without_the_sites_that_die(deployment):
    """One source dies in its training, one in sharing; the third is enough, and both are named with their phase.

    The first is missed by Flower, after about a minute, the second by the phase's own deadline.
    """
    deployment.online(TARGET, "kin", "cousin", "aunt")
    run = deployment.run((TARGET, "kin", "cousin", "aunt"), SEED_DEATHS, "federation.deadlines.share=20")
    run.wait_phase("train.local")
    deployment.kill_site("kin")
    began = time.monotonic()
    run.wait_phase("train.share")
    print(f"kin was missed after {time.monotonic() - began:.0f} s")
    deployment.kill_site("cousin")
    assert run.wait() == 2, run.said
    assert set(run.failures) == {"kin", "cousin"}
    assert run.failures["kin"] == ("train.local", "it is not connected any more")
    phase, reason = run.failures["cousin"]
    assert phase == "train.share" and reason in (
        "no answer within 20 s",
        "it had not answered when the message expired",
    )
    assert "kin failed in train.local: it is not connected" in run.said.splitlines()[-1]
    assert "cousin failed in train.share" in run.said.splitlines()[-1]
    opened = [line for line in deployment.audit(deployment.site(TARGET), run) if line.event.event == "vector.open"]
    assert [line.event.peer for line in opened] == ["aunt"]
    assert set(run.results["targets"]) == {TARGET}
