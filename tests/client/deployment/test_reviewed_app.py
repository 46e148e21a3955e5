"""What a site has reviewed: one app, its bundle's SHA-256 and the guard's programs, which nobody can write."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from each_case import each
from reviewed_homes import replace

from fedsteph.client.deployment import guard, reviewed_app
from fedsteph.client.deployment.reviewed_app import install, installed, require_reviewed
from fedsteph.common.deployment import flower_app, flower_programs
from fedsteph.common.deployment.flower_app import digest_of
from fedsteph.common.errors import DeploymentError, EngineError

STARTED = ("flwr-clientapp", "guard.py", "flower-supernode", "prompt_node.py")
STUBS = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")


@pytest.mark.flower
def test_what_is_installed_is_this_fedstephs_own_code_which_nobody_can_write(installed_once, own_code):
    """Beside it lie the pin and the programs, of which the guard is the one that is tested."""
    [found] = installed(installed_once)
    assert digest_of(found) == own_code
    assert {"apps", "bin", "reviewed.sha256"} <= {path.name for path in installed_once.iterdir()}
    assert {path.name for path in (installed_once / "bin").iterdir()} == {*STARTED, *STUBS}
    assert (installed_once / "bin" / "guard.py").read_bytes() == Path(guard.__file__).read_bytes()
    paths = [installed_once, *installed_once.rglob("*")]
    assert len(paths) > 50
    assert not [path for path in paths if path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)]


@pytest.mark.flower
def test_the_pin_is_that_of_the_bundle_which_a_coordinator_makes(installed_once, coordinators_bundle):
    digest = hashlib.sha256(coordinators_bundle.read_bytes()).hexdigest()
    assert (installed_once / "reviewed.sha256").read_text() == digest + "\n"


@pytest.mark.flower
def test_a_second_app_is_not_installed_beside_it(refused, installed_once, monkeypatch):
    def called(*_):
        raise AssertionError("Flower was started")

    for module in (flower_app, reviewed_app):
        monkeypatch.setattr(module, "flwr", called)
    before = sorted(installed_once.rglob("*"))
    assert "without versions" in refused("app", "install", installed_once)
    with pytest.raises(DeploymentError, match="not a new or empty folder"):
        install(installed_once)
    assert sorted(installed_once.rglob("*")) == before


@pytest.mark.parametrize("content", ["a file", "a folder", "a link to a folder", "a link to nothing"])
def test_a_folder_that_holds_something_is_refused(tmp_path, monkeypatch, content):
    """What lies there might be code, and a link might lead to where others write."""
    monkeypatch.setattr(reviewed_app, "assemble", lambda folder: pytest.fail("it went on"))
    home = tmp_path / "flwr"
    if content == "a link to a folder":
        (tmp_path / "elsewhere").mkdir()
        home.symlink_to(tmp_path / "elsewhere")
    elif content == "a link to nothing":
        home.symlink_to(tmp_path / "elsewhere")
    else:
        (home / "apps").mkdir(parents=True)
        if content == "a file":
            (home / "apps").rmdir()
            (home / "config.toml").touch()
    with pytest.raises(DeploymentError, match="not a new or empty folder"):
        install(home)


@pytest.mark.parametrize("existing", [True, False])
def test_flowers_failure_is_told(tmp_path, monkeypatch, existing):
    program = tmp_path / "flwr"
    program.write_text("#!/bin/sh\necho 'no such publisher' >&2\nexit 1\n")
    program.chmod(0o755)
    if existing:
        (tmp_path / "home").mkdir()
    monkeypatch.setattr(flower_programs, "program", lambda name: str(program))
    with pytest.raises(EngineError, match="'flwr build' failed: no such publisher"):
        install(tmp_path / "home")
    assert installed(tmp_path / "home") == [] and not (tmp_path / "home" / "bin").exists()


def test_a_home_without_apps_has_none(tmp_path):
    assert installed(tmp_path) == installed(tmp_path / "absent") == []
    with pytest.raises(DeploymentError, match="no app is installed"):
        require_reviewed(tmp_path)


@pytest.mark.flower
@each("name", STUBS)
def test_what_else_a_server_could_have_started_refuses(installed_once, name):
    done = subprocess.run([installed_once / "bin" / name, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fedsteph: a site runs its reviewed ClientApp and nothing else\n"


@pytest.mark.flower
def test_every_program_that_flower_brings_for_apps_has_a_stand_in(installed_once):
    """A SuperExec starts what the task names, found by PATH."""
    brought = {path.name for path in Path(sys.executable).parent.glob("flwr-*")}
    assert "flwr-clientapp" in brought and brought <= {path.name for path in (installed_once / "bin").iterdir()}


@pytest.mark.flower
@pytest.mark.parametrize(("name", "option"), [("flwr-clientapp", "--token"), ("flower-supernode", "--superlink")])
def test_neither_program_takes_anything_from_its_surroundings(reviewed_home, tmp_path, name, option):
    """Isolated: neither PYTHONPATH nor the folder that it is started in reaches what it imports."""
    for module in ("flwr", "hashlib"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('the wrong one')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "FLWR_HOME": str(reviewed_home)}
    program = reviewed_home / "bin" / name
    done = subprocess.run([program, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert option in done.stdout


@pytest.fixture
def nobody(monkeypatch, own_code):
    """An account that owns nothing and can write nothing."""
    somebody = SimpleNamespace(access=lambda *_: False, geteuid=lambda: -1, W_OK=os.W_OK)
    monkeypatch.setattr(reviewed_app, "os", somebody)
    monkeypatch.setattr(reviewed_app, "own_digest", lambda: own_code)


@pytest.mark.flower
def test_a_reviewed_home_says_its_digest(reviewed_home, nobody, own_code):
    assert require_reviewed(reviewed_home) == f"this fedsteph's own code ({own_code[:12]}...), read-only"


@pytest.mark.flower
@pytest.mark.parametrize("theirs", ["0.0.9", None])
def test_an_app_of_another_version_is_called_that_and_a_changed_one_is_not(reviewed_home, nobody, theirs):
    """With both versions and the way out; the same version with other code has been changed by somebody."""
    [app] = installed(reviewed_home)
    code, project = app / "client" / "app.py", app / "pyproject.toml"
    replace(code, code.read_text() + "\n")
    own = version("fedsteph")
    if theirs is not None:
        replace(project, project.read_text().replace(f'version = "{own}"', f'version = "{theirs}"'))
    with pytest.raises(DeploymentError) as caught:
        require_reviewed(reviewed_home)
    if theirs is None:
        assert caught.value.what == "the installed app is not the code of this fedsteph"
        assert "find out who changed it" in str(caught.value.remedy)
    else:
        assert caught.value.what == f"the installed app is of fedsteph {theirs}, and this is fedsteph {own}"
        assert f"fedsteph app install {reviewed_home}" in str(caught.value.remedy)
        assert "who changed" not in str(caught.value.remedy)


@pytest.mark.flower
def test_a_changed_program_or_a_pin_that_is_not_the_app_s_is_noticed(reviewed_home, nobody):
    """By the pin, the guard would refuse every run, which is safe, and nobody would know why."""
    said = "the guard's programs are not this fedsteph's"
    for name in (*STARTED, *STUBS):
        path = reviewed_home / "bin" / name
        before = path.read_text()
        replace(path, before + "\n")
        with pytest.raises(DeploymentError, match=said):
            require_reviewed(reviewed_home)
        replace(path, before)
    pin = reviewed_home / guard.PIN
    for text in ("", "0" * 64, "not a digest", None):
        replace(pin, text or "")
        if text is None:
            reviewed_home.chmod(0o755)
            pin.unlink()
            reviewed_home.chmod(0o555)
        with pytest.raises(DeploymentError, match="is not the SHA-256 of the installed app"):
            require_reviewed(reviewed_home)


def test_a_home_that_was_carried_elsewhere_is_noticed(installed_once, nobody, tmp_path):
    """Its wrapper would start the guard of the folder where it was."""
    home = Path(shutil.copytree(installed_once, tmp_path / "moved"))
    with pytest.raises(DeploymentError, match="the guard's programs are not this fedsteph's"):
        require_reviewed(home)
