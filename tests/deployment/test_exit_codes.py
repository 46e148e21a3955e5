"""How ``fedsteph run`` ends where there is no result, and that it says why."""

from __future__ import annotations

import shutil

import pytest
import yaml
from deployment import TARGET

pytestmark = pytest.mark.flower


def test_without_a_superlink_it_ends_at_once_with_1(deployment):
    """Flower itself would try again for ever."""
    elsewhere = deployment.folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("config.yaml", "roster.yaml", "ca.crt"):
        shutil.copyfile(deployment.server / name, elsewhere / name)
    address = f"127.0.0.1:{deployment.free_port()}"
    (elsewhere / "server.yaml").write_text(yaml.safe_dump({"superlink": address, "address": address}))
    run = deployment.run((TARGET, "kin"), server=elsewhere)
    assert run.wait(60) == 1
    assert f"error: {address}: nothing answers there" in run.said.splitlines()[-1]
    assert not (elsewhere / "runs").exists() and run.stdout.read_text() == ""


def test_a_lost_quorum_is_2_and_names_the_sites(deployment):
    """A site that is not there, one that is not asked for, and so a target alone."""
    deployment.online(TARGET, "kin")
    run = deployment.run((TARGET, "aunt"), "federation.deadlines.nodes=5")
    assert run.wait() == 2, run.said
    last = run.said.splitlines()[-1]
    assert "the quorum is lost (1 of 2 sites needed)" in last
    assert "aunt failed in query.hello: no node said that it is this site" in last
    assert "kin failed in query.hello: it is not among federation.sites" in last
    assert run.stdout.read_text() == "" and not (run.folder / "results.json").exists()


def test_ctrl_c_is_130_and_stops_the_run(deployment):
    """Flower's own ``flwr run --stream`` would leave it running."""
    deployment.online(TARGET, "kin")
    run = deployment.run((TARGET, "kin"))
    run.wait_phase("query.hello")
    run.process.interrupt()
    assert run.wait(60) == 130, run.said
    assert deployment.flwr("ls", "fedsteph")["runs"][0]["status"] == "finished:stopped"
    assert not (run.folder / "results.json").exists()
