"""The guard: whatever a server sends, what is loaded is the reviewed folder, or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.clientapp import utils
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supernode.runtime import run_clientapp

from fedsteph.client.deployment import guard

BUNDLE = b"the reviewed app, bundled"
HOOKS = [(run_clientapp, "install_from_fab"), (run_clientapp, "get_project_dir"), (utils, "get_project_dir")]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A FLWR_HOME with one reviewed app; Flower's hooks are as they were when the test is over."""
    home = tmp_path / "flwr"
    reviewed(home).mkdir(parents=True)
    (home / "reviewed.sha256").write_text(hashlib.sha256(BUNDLE).hexdigest() + "\n")
    monkeypatch.setenv("FLWR_HOME", str(home))
    for module, name in HOOKS:
        monkeypatch.setattr(module, name, getattr(module, name))
    return home


def reviewed(home: Path) -> Path:
    return home / "apps" / "fedsteph.fedsteph.0.1.0.12345678"


@pytest.fixture
def guarded(home, monkeypatch):
    """Runs the guard up to where Flower's own program takes over, which it must reach."""

    def run() -> None:
        reached = []
        monkeypatch.setattr(guard, "flwr_clientapp", lambda: reached.append(True))
        guard.main()
        assert reached == [True]

    return run


@pytest.fixture
def closed(home, monkeypatch):
    """Flower's own program must not be reached."""
    monkeypatch.setattr(guard, "flwr_clientapp", lambda: pytest.fail("it ran unguarded"))
    return home


def test_the_reviewed_bundle_is_taken_and_not_unpacked(guarded, home):
    guarded()
    before = sorted(home.rglob("*"))
    assert run_clientapp.install_from_fab(BUNDLE, skip_prompt=True) == reviewed(home)
    assert sorted(home.rglob("*")) == before


def bundle_of(version: str) -> bytes:
    """A real bundle, whose project file names a version."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as bundle:
        bundle.writestr("pyproject.toml", f'[project]\nname = "fedsteph"\nversion = "{version}"\n')
        bundle.writestr("common/__init__.py", "raise SystemExit")
    return file.getvalue()


ANOTHER = {
    "empty": b"",
    "junk": b"junk",
    "cut": BUNDLE[:-1],
    "longer": BUNDLE + b"\n",
    "same version": bundle_of("0.1.0"),
    "way out": bundle_of("0.1.0.12345678/../../../state/evil"),
}


@pytest.mark.parametrize("bundle", ANOTHER.values(), ids=ANOTHER)
def test_another_bundle_is_refused_before_anything_is_unpacked(guarded, home, bundle):
    """By Flower's own class of error, which the server can tell from a fault of the app."""
    guarded()
    before = sorted(home.parent.rglob("*"))
    with pytest.raises(LoadClientAppError, match="runs the app that it has reviewed, and this is another"):
        run_clientapp.install_from_fab(bundle, skip_prompt=True)
    assert sorted(home.parent.rglob("*")) == before


def test_the_whole_digest_counts(guarded, home):
    """Not the eight digits of it that Flower puts into a folder's name."""
    own = hashlib.sha256(BUNDLE).hexdigest()
    (home / "reviewed.sha256").write_text(own[:8] + "0" * 56)
    guarded()
    with pytest.raises(LoadClientAppError):
        run_clientapp.install_from_fab(BUNDLE)


@pytest.mark.parametrize(
    "said",
    [
        ("fedsteph/fedsteph", "0.1.0", "12345678"),
        ("fedsteph/fedsteph", "0.1.0.12345678/../../../state/evil", "9" * 64),
        ("stranger/evil", "9.9.9", "9" * 64),
        ("../..", "../..", "../.."),
        ("", "", ""),
    ],
)
def test_whatever_the_server_says_the_reviewed_folder_is_loaded(guarded, home, said):
    guarded()
    assert run_clientapp.get_project_dir(*said) == utils.get_project_dir(*said) == reviewed(home)


def test_a_process_that_comes_too_late_for_flower_says_so(guarded, monkeypatch, capsys):
    """This test's own process is some seconds old: within a day's window, and late for one of no time."""
    monkeypatch.setattr(guard, "_START_SECONDS", 86_400.0)
    guarded()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(guard, "_START_SECONDS", 0.0)
    guarded()
    assert "its task is lost, and is started again. The machine is too slow or too loaded" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "name"), HOOKS)
def test_a_flower_that_does_these_steps_elsewhere_is_not_run(closed, monkeypatch, module, name):
    """Nor one in which they are something else."""
    monkeypatch.setattr(module, name, "a constant now")
    with pytest.raises(SystemExit, match="cannot be held to the reviewed app"):
        guard.main()
    monkeypatch.delattr(module, name)
    with pytest.raises(SystemExit, match=rf"has no {module.__name__}\.{name}; it cannot be held"):
        guard.main()


HOMES = {
    "a second app": lambda home: (home / "apps" / "stranger.evil.1.0.0.00000000").mkdir(),
    "no app": lambda home: reviewed(home).rmdir(),
    "no apps": lambda home: (reviewed(home).rmdir(), (home / "apps").rmdir()),
    "no pin": lambda home: (home / "reviewed.sha256").unlink(),
    "a strange pin": lambda home: (home / "reviewed.sha256").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("change", HOMES.values(), ids=HOMES)
def test_a_home_that_is_not_as_it_was_installed_runs_nothing(closed, change):
    change(closed)
    with pytest.raises((OSError, ValueError)):
        guard.main()


@pytest.mark.parametrize("pin", ["", "\n", "0" * 64, "none"])
def test_a_pin_that_is_none_fits_no_bundle(guarded, home, pin):
    (home / "reviewed.sha256").write_text(pin)
    guarded()
    for bundle in (BUNDLE, b"", b"none"):
        with pytest.raises(LoadClientAppError):
            run_clientapp.install_from_fab(bundle)


def test_without_a_home_it_runs_nothing(closed, monkeypatch):
    """Flower would take the user's own ~/.flwr then."""
    monkeypatch.delenv("FLWR_HOME")
    with pytest.raises(KeyError):
        guard.main()


PLAYED = """
import json, sys
from flwr.supernode.runtime import run_clientapp as run
sys.path.insert(0, {folder!r})
import guard

def play(bundle, version):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fedsteph"]:
        del sys.modules[name]
    found = {{}}
    try:
        found["installed"] = str(run.install_from_fab(bundle, skip_prompt=True))
        load = run.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
        found["app"] = type(load("fedsteph/fedsteph", version, "0" * 64)).__name__
        found["from"] = sys.modules["fedsteph.client.app"].__file__
    except Exception as error:
        found["error"] = type(error).__name__
    print(json.dumps(found))

def play_all():
    with open(sys.argv[1], "rb") as file:
        bundle = file.read()
    for version in sys.argv[2:]:
        play(bundle + b"\\0", version)
        play(bundle, version)

guard.flwr_clientapp = play_all
guard.main()
"""


@pytest.mark.flower
def test_the_installed_guard_loads_the_reviewed_app(reviewed_home, coordinators_bundle, tmp_path):
    """In a process of its own, with the bundle that a coordinator makes; with one byte more, nothing is loaded."""
    [app] = (reviewed_home / "apps").iterdir()
    versions = ["0.1.0", f"0.1.0.{app.name.rpartition('.')[2]}/../../../state/evil"]
    file = tmp_path / "play.py"
    file.write_text(PLAYED.format(folder=str(reviewed_home / "bin")))
    done = subprocess.run(
        [sys.executable, "-IB", str(file), str(coordinators_bundle), *versions],
        cwd=tmp_path,
        env={**os.environ, "FLWR_HOME": str(reviewed_home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {"installed": str(app), "app": "ClientApp", "from": str(app / "client" / "app.py")}
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"error": "LoadClientAppError"}, loaded] * 2


def test_a_flower_without_its_own_program_runs_nothing(home, monkeypatch, tmp_path):
    monkeypatch.setattr(guard, "PROGRAM", tmp_path / "flwr_clientapp.py")
    with pytest.raises(SystemExit, match="cannot be held to the reviewed app"):
        guard.main()
