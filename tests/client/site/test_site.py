"""The site file, the folders, and which site a Flower node serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from keys_and_rosters import membership_of, roster_of, write_run_folder
from sites import make_site

from fedsteph.client.data.settings import DataSettings
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site, site_folders, site_of_node
from fedsteph.common.errors import ConfigError, RosterError
from fedsteph.common.trust.audit_log import Event, verify
from fedsteph.common.trust.roster import write_roster


def folder(parent: Path, name: str, text: str | None = None) -> Path:
    made = parent / name
    made.mkdir(parents=True)
    if text is not None:
        (made / "site.yaml").write_text(text)
    return made


def test_without_a_site_file_the_defaults_hold(tmp_path):
    path = folder(tmp_path, "KIRP")
    assert Site.open(path) == Site("kirp", path, DataSettings(), "auto", path / "fedsteph-state")


def test_every_key_of_a_site_file(tmp_path):
    text = "name: north\ndevice: cuda:1\nstate: kept\ndata: {features: f, time_unit: months, exclude: [S1]}\n"
    path = folder(tmp_path, "Any Name!", text)
    data = DataSettings(features="f", time_unit="months", exclude=("S1",))
    assert Site.open(path) == Site("north", path, data, "cuda:1", path / "kept")
    given = Site.open(path, state=tmp_path / "s", device="cpu")
    assert (given.state, given.device) == (tmp_path / "s", "cpu")


def test_the_audit_log_lies_where_the_site_file_says(tmp_path):
    path = folder(tmp_path, "a", "name: a\n")
    assert Site.open(path).audit.append(Event("test")) == verify(path / "fedsteph-state" / "audit").head
    section = f"federation: {{roster: r, roster_sha256: {'a' * 64}, sign_key: k, seal_key: k, audit: log}}\n"
    (path / "site.yaml").write_text(section)
    assert Site.open(path).audit.append(Event("test")) == verify(path / "log").head


def test_an_absolute_state_folder_is_taken_as_it_is(tmp_path):
    path = folder(tmp_path, "a", f"state: {tmp_path / 'elsewhere'}\n")
    assert Site.open(path).state == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a", "nam: x\n", "Did you mean 'name'"),
        ("a", "name: X\n", "name must be like"),
        ("a", "name: ../x\n", "name must be like"),
        ("a", "device: 1\n", "'device' must be text"),
        ("a", "data: {feature: f}\n", "Did you mean 'data.features'"),
        ("a", "- a\n", "must be a mapping"),
        ("a", "a: [", "not valid YAML"),
        ("Süd", None, "cannot be a site's name"),
        ("a b", None, "cannot be a site's name"),
    ],
)
def test_faults_are_named_with_their_file(tmp_path, name, text, message):
    path = folder(tmp_path, name, text)
    with pytest.raises(ConfigError, match=message) as caught:
        Site.open(path)
    assert str(path) in caught.value.where


def test_an_absent_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such site folder") as caught:
        Site.open(tmp_path / "absent")
    assert caught.value.where == str(tmp_path / "absent")


def test_site_folders_are_those_with_labels_or_a_site_file(tmp_path):
    folder(tmp_path, "b", "name: b\n")
    folder(tmp_path, "c").joinpath("labels.csv").write_text("x\n")
    folder(tmp_path, "a").joinpath("labels.csv").write_text("x\n")
    folder(tmp_path, "notes")
    (tmp_path / "labels.csv").write_text("x\n")
    assert [path.name for path in site_folders(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_no_site_folders(tmp_path, name):
    folder(tmp_path, "empty")
    with pytest.raises(ConfigError) as caught:
        site_folders(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


@pytest.fixture
def plan(tmp_path) -> Path:
    return write_run_folder(
        tmp_path / "run", {name: folder(tmp_path, name) for name in ("a", "b")}, roster_of("a", "b")
    )


def test_a_real_node_names_its_own_site_and_ignores_the_coordinator(tmp_path, plan):
    path = folder(tmp_path, "real", "name: real\n")
    config = {"site-config": str(path / "site.yaml"), "partition-id": 0}
    site = site_of_node(config, {"run-folder": str(plan)})
    assert (site.name, site.folder, site.state) == ("real", path, path / "fedsteph-state")
    assert (site.federation, site.policy) == (None, None)  # not what the run folder would give it


@pytest.mark.parametrize(("index", "name"), [(0, "a"), (1, "b")])
def test_a_simulated_node_finds_its_site_in_the_run_folder(tmp_path, plan, index, name):
    site = site_of_node({"partition-id": index}, {"run-folder": str(plan)})
    assert (site.name, site.folder, site.device) == (name, tmp_path / name, "cpu")
    assert site.state == plan / "sites" / name
    assert site.threads == 1
    assert site.membership() == membership_of(name, roster_of("a", "b"))


def test_a_simulated_site_that_trains_in_private_takes_no_part_in_rounds_that_do_not(tmp_path, plan):
    (tmp_path / "a" / "site.yaml").write_text("privacy: dp-sgd\ndp_sgd: {epsilon: 8}\n")
    sites = [site_of_node({"partition-id": k}, {"run-folder": str(plan)}) for k in (0, 1)]
    assert [site.policy.unsealed_updates for site in sites] == [False, True]
    assert sites[0].policy.targets == ("a", "b")


def test_a_simulated_site_s_own_policy_holds(tmp_path, plan):
    (tmp_path / "a" / "site.yaml").write_text("policy: {targets: [b], count_band: 50}\n")
    site = site_of_node({"partition-id": 0}, {"run-folder": str(plan)})
    assert site.policy == Policy(targets=("b",), count_band=50)


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


def test_a_folder_with_features_but_no_labels_is_not_passed_over(tmp_path):
    make_site(tmp_path / "a")
    (tmp_path / "b" / "features").mkdir(parents=True)
    (tmp_path / "b" / "Labels.csv").write_text("")
    with pytest.raises(ConfigError, match=r"b: has features but neither"):
        site_folders(tmp_path)


def test_a_site_file_with_the_wrong_suffix_is_not_passed_over(tmp_path):
    site = make_site(tmp_path / "a")
    (site / "site.yml").write_text("data: {time_unit: months}\n")
    with pytest.raises(ConfigError, match=r"site\.yml: is not read"):
        Site.open(site)


def test_a_node_s_site_file_is_read_under_its_own_name_and_must_exist(tmp_path):
    site = make_site(tmp_path / "a")
    (site / "ward-7.yaml").write_text("name: ward-7\ndata: {time_unit: months}\n")
    opened = site_of_node({"site-config": str(site / "ward-7.yaml")}, {})
    assert (opened.name, opened.data.time_unit, opened.folder) == ("ward-7", "months", site)
    with pytest.raises(ConfigError, match="no such site file"):
        site_of_node({"site-config": str(site / "absent.yaml")}, {})
