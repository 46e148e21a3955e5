"""Nodes that do not get in, and sites that get in and are left behind, each with its reason."""

from __future__ import annotations

import pytest
from deployment import BOASTER, STRAY, TARGET
from misfits import DEAD, FULL, GOOD

pytestmark = pytest.mark.flower


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unregistered", "Failed to activate SuperNode"),
        ("wrong CA", "CERTIFICATE_VERIFY_FAILED"),
        ("no TLS", "Giving up reconnection"),
    ],
)
def test_a_strangers_node_does_not_get_in(misfits, name, reason):
    assert misfits.strangers[name].wait(1) == 1
    said = misfits.strangers[name].text()
    assert reason in said and "SuperNode ID" not in said
    assert 5 <= misfits.online <= 6, "the sites, with the dead one or without"


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
        (DEAD, "train.local", "it was not connected any more, and not back within 2 s"),
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


def test_the_doctor_sees_that_an_installed_app_was_changed(misfits):
    """Flower does not look again at what is installed."""
    assert misfits.doctor["verdict"] == "FAIL"
    assert "the installed app is not the code of this fedsteph" in misfits.doctor["found"]


def test_a_full_disk_leaves_no_part_of_a_model(misfits):
    """The model that was being written is gone, and nothing is there that could be taken for it."""
    assert misfits.written and not [name for name in misfits.written if "local" in name or name.endswith(".part")]
