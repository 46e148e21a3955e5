"""The site file, and the folders of sites."""

from __future__ import annotations

from pathlib import Path

import pytest
from sites import make_site

from fedsteph.client.data.settings import DataSettings
from fedsteph.client.site.site import Site, site_folders
from fedsteph.client.site.site_file import SiteFile
from fedsteph.common.errors import ConfigError
from fedsteph.common.trust.audit_log import Event, verify


def folder(parent: Path, name: str, text: str | None = None) -> Path:
    made = parent / name
    made.mkdir(parents=True)
    if text is not None:
        (made / "site.yaml").write_text(text)
    return made


def test_without_a_site_file_the_defaults_hold(tmp_path):
    path = folder(tmp_path, "KIRP")
    assert Site.open(path) == Site("kirp", path, SiteFile(), path / "fedsteph-state")


def test_every_key_of_a_site_file(tmp_path):
    text = "name: north\ndevice: cuda:1\nstate: kept\ndata: {features: f, time_unit: months, exclude: [S1]}\n"
    path = folder(tmp_path, "Any Name!", text)
    data = DataSettings(features="f", time_unit="months", exclude=("S1",))
    assert Site.open(path) == Site(
        "north", path, SiteFile("north", data=data, device="cuda:1", state="kept"), path / "kept"
    )
    (path / "site.yaml").write_text(f"state: {tmp_path / 'elsewhere'}\nname: north\n")
    assert Site.open(path).state == tmp_path / "elsewhere"
    given = Site.open(path, state=tmp_path / "s", device="cpu")
    assert (given.state, given.file.device) == (tmp_path / "s", "cpu")


def test_the_audit_log_lies_where_the_site_file_says(tmp_path):
    path = folder(tmp_path, "a", "name: a\n")
    assert Site.open(path).audit.append(Event("test")) == verify(path / "fedsteph-state" / "audit").head
    section = f"federation: {{roster: r, roster_sha256: {'a' * 64}, sign_key: k, seal_key: k, audit: log}}\n"
    (path / "site.yaml").write_text(section)
    assert Site.open(path).audit.append(Event("test")) == verify(path / "log").head


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
    with pytest.raises(ConfigError, match="no such site folder") as caught:
        Site.open(tmp_path / "absent")
    assert caught.value.where == str(tmp_path / "absent")


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
