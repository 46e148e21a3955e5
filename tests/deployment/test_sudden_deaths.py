"""``kill -9``: of the SuperLink, which comes back, and of sites, which do not."""

from __future__ import annotations

import time

import pytest
from deployment import TARGET, wait_for

from common.progress import read_progress

pytestmark = pytest.mark.flower
SITES = (TARGET, "kin")


def test_a_run_survives_the_superlink(deployment):
    """Killed while every site trains, and started again with its database: the run completes, and nobody is missed."""
    deployment.online(*SITES)
    logs = [deployment.processes[f"{site}-supernode"] for site in SITES]
    before = [log.text().count("Receiving: train.local") for log in logs]
    run = deployment.run(SITES, "training.seed=8")
    run.wait_phase("train.local")

    def all_train() -> bool:
        return all(log.text().count("Receiving: train.local") > n for log, n in zip(logs, before, strict=True))

    wait_for("every site to have its request", all_train, 60)
    progress = read_progress((run.folder / "server" / "progress.jsonl").read_text())[-1]
    assert (progress.phase, progress.done) == ("train.local", 0), "no site has answered yet"
    deployment.processes["superlink"].kill()
    deployment.start_superlink()
    assert run.wait() == 0, run.said
    assert set(run.results["sites"]) == {*SITES} and set(run.results["targets"]) == {TARGET}


def test_a_run_goes_on_without_the_sites_that_die(deployment):
    """One source dies in its training, one in sharing; the third is enough, and both are named with their phase.

    The first is missed by Flower, after about a minute, the second by the phase's own deadline.
    """
    deployment.online(TARGET, "kin", "cousin", "aunt")
    run = deployment.run((TARGET, "kin", "cousin", "aunt"), "training.seed=9", "federation.deadlines.share=30")
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
        "no answer within 30 s",
        "it had not answered when the message expired",
    )
    assert "kin failed in train.local: it is not connected" in run.said.splitlines()[-1]
    assert "cousin failed in train.share" in run.said.splitlines()[-1]
    opened = [line for line in deployment.audit(deployment.site(TARGET), run) if line.event.event == "vector.open"]
    assert [line.event.peer for line in opened] == ["aunt"]
    assert set(run.results["targets"]) == {TARGET}
