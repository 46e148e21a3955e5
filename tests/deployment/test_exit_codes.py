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


def test_ctrl_c_is_130_and_stops_the_run(deployment):
    """Flower's own ``flwr run --stream`` would leave it running. It waits for its sites, of which none is online."""
    run = deployment.run((TARGET, "kin"))
    run.wait_phase("query.hello")
    run.process.interrupt()
    assert run.wait(60) == 130, run.said
    assert deployment.flwr("ls", "fedsteph")["runs"][0]["status"] == "finished:stopped"
    assert not (run.folder / "results.json").exists()
