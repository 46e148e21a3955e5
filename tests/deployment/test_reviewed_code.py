"""Only the code that a site has reviewed and installed runs there."""

from __future__ import annotations

import json

import pytest
from deployment import TARGET
from misfits import FULL, GOOD

from fedsteph.client.deployment.app_versions import CURRENT, VERSIONS, current
from fedsteph.client.deployment.reviewed_app import installed
from fedsteph.common.deployment.flower_app import digest_of, own_digest

SITES = (TARGET, GOOD, FULL)
NOT_LOADED = "its app could not be loaded: a site runs the version that it has reviewed, and no other"
pytestmark = pytest.mark.flower


def home_of(site):
    """The FLWR_HOME of the version in use."""
    return site / "flwr" / VERSIONS / current(site / "flwr")


def test_changed_code_runs_at_no_site(changed_code):
    """It ran at the server, which shows that it would have left its mark, and nowhere else."""
    assert [path.name for path in changed_code.ran.iterdir()] == ["server"]


@pytest.mark.parametrize("site", SITES)
def test_nothing_of_it_was_unpacked(deployment, changed_code, site):
    """Neither where its version leads nor anywhere else in the site's folder."""
    assert [path for path in deployment.site(site).rglob("*") if path.name.startswith("evil")] == []
    [reviewed] = installed(home_of(deployment.site(site)))
    assert digest_of(reviewed) == own_digest()


def test_the_coordinator_is_told_which_sites_did_not_run_it(changed_code):
    """Three nodes answered with an error, and no site joined."""
    assert changed_code.status.startswith("finished:failed")
    outcome = json.loads(changed_code.outcome.read_text())
    assert outcome["sites"] == {} and "quorum" in outcome["error"]
    reasons = {failure["site"]: failure["reason"] for failure in outcome["failures"]}
    for site in SITES:
        assert reasons.pop(site) == "no node said that it is this site"
    assert [reason.startswith(NOT_LOADED) for reason in reasons.values()] == [True] * 3
    assert all(f"{site} failed in query.hello" in outcome["error"] for site in SITES)
    assert outcome["error"].count(NOT_LOADED) == 3


def test_the_reviewed_app_still_runs_afterwards(deployment, changed_code, whole_run):
    """On the very same processes, and with nothing new installed."""
    assert whole_run.wait() == 0, whole_run.said
    assert {name: len(ids) for name, ids in changed_code.processes.items()} == {site: 2 for site in SITES}
    assert deployment.program_ids() == {site: changed_code.processes[site] for site in (TARGET, FULL)}
    for site in SITES:
        assert len(installed(home_of(deployment.site(site)))) == 1
        assert {path.name for path in (deployment.site(site) / "flwr").iterdir()} == {"bin", CURRENT, VERSIONS}
