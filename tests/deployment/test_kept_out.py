"""Nodes that do not get in, and sites that get in and are left behind, each with its reason."""

from __future__ import annotations

import pytest
from deployment import BOASTER, STRAY, TARGET, Process
from misfits import DEAD, FULL, GOOD

from fedsteph.server.deployment.certificates import make_ca, make_node_key

pytestmark = pytest.mark.flower
STRANGERS = {
    "unregistered": "Failed to activate SuperNode",
    "wrong CA": "CERTIFICATE_VERIFY_FAILED",
    "no TLS": "Giving up reconnection",
}


def test_strangers_nodes_do_not_get_in(deployment):
    """Three SuperNodes at the door, all at once: each as the provisioned script starts it, but for one thing."""
    deployment.online(TARGET, "kin")
    folder = deployment.folder / "strangers"
    folder.mkdir()
    make_node_key(folder / "own.key", folder / "own.pub")
    make_ca(folder / "other.crt", folder / "other.key", "kidney")
    changes = {
        "unregistered": {"auth.key": str(folder / "own.key")},
        "wrong CA": {"ca.crt": str(folder / "other.crt")},
        "no TLS": {
            "--root-certificates ca.crt": "--insecure --max-wait-time 5",
            "--auth-supernode-private-key auth.key": "",
        },
    }
    found = {}
    for name, replaced in changes.items():
        script = (deployment.site("aunt") / "start-supernode.sh").read_text()
        port = script.split("--port ")[1].split()[0]
        for old, new in {**replaced, f"--port {port}": f"--port {deployment.free_port()}"}.items():
            assert script.count(old) == 1
            script = script.replace(old, new)
        own = deployment.site("aunt") / f"start-{name.replace(' ', '-')}.sh"
        own.write_text(script)
        log = deployment.logs / f"{name}.log"
        found[name] = deployment.processes[name] = Process(log, [*deployment.account, "sh", str(own)], leash=False)
    for name, reason in STRANGERS.items():
        assert found[name].wait(90) == 1, name
        assert reason in found[name].text() and "SuperNode ID" not in found[name].text(), name
    nodes = deployment.flwr("supernode", "list", "fedsteph")["nodes"]
    assert sum(node["status"] == "online" for node in nodes) == 2


def test_the_run_goes_on_and_ends_with_2(misfits):
    """A target and one good source are a federation, whatever the others send."""
    assert misfits.code == 2, misfits.run.said
    assert set(misfits.run.results["targets"]) == {TARGET}
    assert set(misfits.run.results["sites"]) >= {TARGET, GOOD}


@pytest.mark.parametrize(
    ("site", "phase", "reason"),
    [
        (STRAY, "query.hello", "the site is not set up for this federation (MembershipError)"),
        (BOASTER, "train.local", "its answer: its body is not a TrainLocalReply"),
        (FULL, "train.local", "the site could not read or write its disk, and its log has the details (StorageError)"),
        (DEAD, "train.local", "it is not connected any more"),
    ],
)
def test_each_is_named_with_phase_and_reason(misfits, site, phase, reason):
    assert set(misfits.run.failures) == {STRAY, BOASTER, FULL, DEAD}
    found = misfits.run.failures[site]
    assert found[0] == phase and found[1].startswith(reason)
    assert f"{site} failed in {phase}: {reason}" in misfits.run.said.splitlines()[-1]


def test_no_exact_count_of_the_boaster_is_kept(misfits):
    kept = [path.read_text() for path in misfits.run.folder.glob("**/*.json")] + [misfits.run.said]
    assert len(kept) >= 3
    assert [text for text in kept if '"83"' in text or '"41"' in text] == []


def test_the_doctor_sees_that_an_installed_app_was_changed(deployment, misfits):
    """Flower does not look again at what is installed."""
    changed = deployment.doctor(BOASTER)["reviewed app"]
    assert changed["verdict"] == "FAIL" and "the installed app is not the code of this fedsteph" in changed["found"]


def test_a_full_disk_leaves_no_part_of_a_model(misfits):
    """The model that was being written is gone, and nothing is there that could be taken for it."""
    assert misfits.written and not [name for name in misfits.written if "local" in name or name.endswith(".part")]
