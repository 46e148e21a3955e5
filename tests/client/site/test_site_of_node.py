"""Which site a Flower node serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from keys_and_rosters import membership_of, roster_of, write_run_folder
from sites import make_site

from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site_of_node import site_of_node
from fedsteph.common.errors import ConfigError, RosterError
from fedsteph.common.trust.roster import write_roster


@pytest.fixture
def plan(tmp_path) -> Path:
    folders = {name: tmp_path / name for name in ("a", "b")}
    for folder in folders.values():
        folder.mkdir()
    return write_run_folder(tmp_path / "run", folders, roster_of("a", "b"))


def test_a_real_node_names_its_own_site_and_ignores_the_coordinator(tmp_path, plan):
    path = make_site(tmp_path / "real")
    (path / "site.yaml").write_text("name: real\n")
    config = {"site-config": str(path / "site.yaml"), "partition-id": 0}
    site = site_of_node(config, {"run-folder": str(plan)})
    assert (site.name, site.folder, site.state) == ("real", path, path / "fedsteph-state")
    assert (site.file.federation, site.file.policy) == (None, None)  # not what the run folder would give it


@pytest.mark.parametrize(("index", "name"), [(0, "a"), (1, "b")])
def test_a_simulated_node_finds_its_site_in_the_run_folder(tmp_path, plan, index, name):
    site = site_of_node({"partition-id": index}, {"run-folder": str(plan)})
    assert (site.name, site.folder, site.file.device) == (name, tmp_path / name, "cpu")
    assert site.state == plan / "sites" / name and site.file.threads == 1
    assert site.membership() == membership_of(name, roster_of("a", "b"))


def test_a_simulated_site_that_trains_in_private_takes_no_part_in_rounds_that_do_not(tmp_path, plan):
    (tmp_path / "a" / "site.yaml").write_text("privacy: dp-sgd\ndp_sgd: {epsilon: 8}\n")
    sites = [site_of_node({"partition-id": k}, {"run-folder": str(plan)}) for k in (0, 1)]
    assert [site.file.policy.unsealed_updates for site in sites] == [False, True]
    assert sites[0].file.policy.targets == ("a", "b")


def test_a_simulated_site_s_own_policy_holds(tmp_path, plan):
    (tmp_path / "a" / "site.yaml").write_text("policy: {targets: [b], count_band: 50}\n")
    site = site_of_node({"partition-id": 0}, {"run-folder": str(plan)})
    assert site.file.policy == Policy(targets=("b",), count_band=50)


def test_a_roster_that_was_changed_after_the_run_was_prepared_is_refused(plan):
    write_roster(plan / "roster.yaml", roster_of("a", "b", "mallory"))
    site = site_of_node({"partition-id": 0}, {"run-folder": str(plan)})
    with pytest.raises(RosterError, match="not the pinned"):
        site.membership()


@pytest.mark.parametrize(
    ("node", "run"),
    [
        ({}, {}),
        ({}, {"run-folder": "RUN"}),
        ({"partition-id": 0}, {}),
        ({"partition-id": 0}, {"run-folder": ""}),
        ({"partition-id": 0}, {"run-folder": "/absent"}),
        ({"partition-id": "0"}, {"run-folder": "RUN"}),
        ({"partition-id": 2}, {"run-folder": "RUN"}),
        ({"site-config": "/absent/site.yaml"}, {"run-folder": "RUN"}),
    ],
)
def test_a_node_without_a_site(plan, node, run):
    run = {key: str(plan) if value == "RUN" else value for key, value in run.items()}
    with pytest.raises(ConfigError):
        site_of_node(node, run)


def test_a_relative_run_folder_is_refused(plan, monkeypatch):
    monkeypatch.chdir(plan.parent)
    with pytest.raises(ConfigError, match="does not know its site"):
        site_of_node({"partition-id": 0}, {"run-folder": plan.name})


def test_a_node_s_site_file_is_read_under_its_own_name_and_must_exist(tmp_path):
    site = make_site(tmp_path / "a")
    (site / "ward-7.yaml").write_text("name: ward-7\ndata: {time_unit: months}\n")
    opened = site_of_node({"site-config": str(site / "ward-7.yaml")}, {})
    assert (opened.name, opened.file.data.time_unit, opened.folder) == ("ward-7", "months", site)
    with pytest.raises(ConfigError, match="no such site file"):
        site_of_node({"site-config": str(site / "absent.yaml")}, {})
