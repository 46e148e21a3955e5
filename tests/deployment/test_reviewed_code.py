"""Only the code that a site has reviewed and installed runs there."""

from __future__ import annotations

import json

import pytest
from deployment import TARGET, ordinary_account

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(ordinary_account() is None, reason="root, and no setpriv: no read-only folder stops it"),
]


def test_changed_code_runs_at_no_site(changed_code):
    """It ran at the server, which shows that it would have left its mark, and nowhere else."""
    assert [path.name for path in changed_code.ran.iterdir()] == ["server"]


def test_the_coordinator_is_told_which_sites_did_not_run_it(changed_code):
    """Three nodes answered with an error, and no site joined."""
    assert changed_code.status.startswith("finished:failed")
    outcome = json.loads(changed_code.outcome.read_text())
    assert outcome["sites"] == {} and "quorum" in outcome["error"]
    reasons = {failure["site"]: failure["reason"] for failure in outcome["failures"]}
    for site in (TARGET, "kin", "cousin"):
        assert reasons.pop(site) == "no node said that it is this site"
    assert list(reasons.values()) == ["its app raised an exception"] * 3
    assert all(f"{site} failed in query.hello" in outcome["error"] for site in (TARGET, "kin", "cousin"))


def test_the_reviewed_app_still_runs_afterwards(deployment, changed_code, whole_run):
    """On the very same processes, and with nothing new installed."""
    assert whole_run.wait() == 0, whole_run.said
    assert {name: len(ids) for name, ids in changed_code.processes.items()} == {TARGET: 2, "kin": 2, "cousin": 2}
    assert deployment.program_ids() == changed_code.processes
    for site in (TARGET, "kin", "cousin"):
        assert len(list((deployment.site(site) / "flwr" / "apps").iterdir())) == 1
