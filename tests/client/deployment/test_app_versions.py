"""Versions of the reviewed app, beside each other: switched, switched back, and no way out of the folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from reviewed_homes import copy_home, replace

from fedsteph.client.deployment import app_versions, reviewed_app
from fedsteph.client.deployment.app_versions import current, install_version, require_current, use, versions
from fedsteph.client.deployment.reviewed_app import installed
from fedsteph.common.deployment.flower_app import digest_of
from fedsteph.common.errors import DeploymentError

pytestmark = pytest.mark.flower


@pytest.fixture
def folder(tmp_path, installed_once, own_code, monkeypatch) -> Path:
    """A site's flwr/ with this fedsteph as its one version; Flower's part of it is a copy, which takes no seconds."""
    monkeypatch.setattr(reviewed_app, "install", lambda home: copy_home(installed_once, home))
    for module in (app_versions, reviewed_app):
        monkeypatch.setattr(module, "own_digest", lambda: own_code)
    install_version(tmp_path / "flwr")
    return tmp_path / "flwr"


@pytest.fixture
def nobody(monkeypatch) -> None:
    """An account that owns nothing and can write nothing."""
    monkeypatch.setattr(reviewed_app, "os", SimpleNamespace(access=lambda *_: False, geteuid=lambda: -1, W_OK=os.W_OK))


def later_version(folder: Path) -> str:
    """Another version beside it, as its own fedsteph would have installed it."""
    home = folder / "versions" / current(folder)
    (folder / "versions").chmod(0o755)
    made = folder / "versions" / "made"
    copy_home(home, made)
    [app] = installed(made)
    project = app / "pyproject.toml"
    replace(project, project.read_text().replace(f'version = "{version("fedsteph")}"', 'version = "9.9.9"'))
    replace(app / "client" / "app.py", (app / "client" / "app.py").read_text() + "\n")
    name = f"9.9.9-{digest_of(app)[:12]}"
    made.rename(made.with_name(name))
    (folder / "versions").chmod(0o555)
    return name


def changed(folder: Path, path: str) -> Path:
    """A file of the version in use, changed as root could."""
    found = next((folder / "versions" / current(folder)).rglob(path))
    replace(found, found.read_text() + "\n")
    return found


def test_the_first_version_is_in_use_and_nobody_can_write_it(folder, nobody, own_code):
    name = f"{version('fedsteph')}-{own_code[:12]}"
    assert (versions(folder), current(folder)) == ([name], name)
    assert require_current(folder) == f"this fedsteph's own code ({own_code[:12]}...), read-only, version {name}"
    paths = [folder, *folder.rglob("*")]
    assert not [path for path in paths if path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)]
    before = sorted(paths)
    assert install_version(folder) == name and sorted([folder, *folder.rglob("*")]) == before


def test_it_is_switched_and_switched_back_by_the_commands(cli, refused, folder, nobody):
    first, later = current(folder), later_version(folder)
    assert cli("app", "list", folder)[1] == f"* {first}\n  {later}\n"
    assert cli("app", "use", folder, later)[:2] == (0, f"in use: {later}\n")
    assert cli("app", "list", folder)[1] == f"  {first}\n* {later}\n"
    with pytest.raises(DeploymentError, match=r"the installed app is of fedsteph 9\.9\.9") as caught:
        require_current(folder)
    assert "fedsteph app use" in str(caught.value.remedy)
    assert f"in use is {later} still" in cli("app", "install", folder)[2]
    assert cli("app", "use", folder, first)[0] == 0 and require_current(folder)
    for name in ("1.0.0-000000000000", "..", "../../outside", "", "9.9.9"):
        assert "there is no version" in refused("app", "use", folder, name)
    assert current(folder) == first


def started(folder: Path) -> tuple[int, str]:
    """What a SuperExec starts by name, up to where a version's guard would begin; the version is a stand-in."""
    for home in (folder / "versions").iterdir():
        if not home.is_symlink():
            replace(home / "bin" / "flwr-clientapp", '#!/bin/sh\necho "$FLWR_HOME" "$@"\n')
    words = [str(folder / "bin" / "flwr-clientapp"), "--token", "x y"]
    done = subprocess.run(words, env={"PATH": os.defpath}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout or done.stderr


def test_what_is_started_is_the_version_in_use(folder):
    first, later = current(folder), later_version(folder)
    assert started(folder) == (0, f"{folder / 'versions' / first} --token x y\n")
    use(folder, later)
    assert started(folder) == (0, f"{folder / 'versions' / later} --token x y\n")


def test_a_pointer_out_of_the_folder_or_a_link_starts_nothing(folder, nobody, tmp_path):
    name, outside = current(folder), tmp_path / "outside"
    shutil.copytree(folder / "versions" / name, outside)
    for pointer in ("../../outside", str(outside), "..", ".", "", "x/../../../outside", "-x", "a b", f"{name}\nx"):
        replace(folder / "current", pointer)
        code, said = started(folder)
        assert code == 1 and "fedsteph: " in said, pointer
        with pytest.raises(DeploymentError, match="names no installed version"):
            require_current(folder)
    replace(folder / "current", f"{name}\n")
    home = folder / "versions" / name
    home.parent.chmod(0o755)
    shutil.rmtree(home)
    home.symlink_to(outside)
    home.parent.chmod(0o555)
    assert started(folder)[0] == 1 and "is a link" in started(folder)[1]
    for refused in (lambda: require_current(folder), lambda: use(folder, name), lambda: install_version(folder)):
        with pytest.raises(DeploymentError, match="is a link"):
            refused()


def test_a_version_whose_files_changed_is_not_used(folder, nobody):
    name = current(folder)
    for path in ("client/app.py", "common/errors.py"):
        found = changed(folder, path)
        with pytest.raises(DeploymentError, match="the installed app is not the code of this fedsteph"):
            require_current(folder)
        for refused in (lambda: use(folder, name), lambda: install_version(folder)):
            with pytest.raises(DeploymentError, match="its files are not those that its name says"):
                refused()
        replace(found, found.read_text()[:-1])
    for path, said in (("bin/guard.py", "the guard's programs"), ("reviewed.sha256", "is not the SHA-256")):
        found = changed(folder, path)
        before = found.read_text()[:-1]
        replace(found, "0" * 64)
        with pytest.raises(DeploymentError, match=said):
            require_current(folder)
        replace(found, before)
    assert require_current(folder)
    replace(folder / "bin" / "flwr-clientapp", "#!/bin/sh\n")
    with pytest.raises(DeploymentError, match="its programs are not this fedsteph's"):
        require_current(folder)


def test_what_this_account_could_change_fails(folder, own_code):
    with pytest.raises(DeploymentError, match="this account can change it"):
        require_current(folder)


def test_an_installation_of_the_layout_before_is_told_how_to_go_on(refused, folder, installed_once, tmp_path):
    """And so is a folder that holds something else, or a link."""
    before = copy_home(installed_once, tmp_path / "before")
    told = refused("app", "install", before)
    assert "is an installation of fedsteph 0.1.0, without versions" in told and f"mv {before}" in told
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    (other / "x").touch()
    link.symlink_to(folder)
    assert "is not a new or empty folder" in refused("app", "install", other)
    assert "is a link" in refused("app", "install", link)
    assert "names no installed version" in refused("app", "list", before)
