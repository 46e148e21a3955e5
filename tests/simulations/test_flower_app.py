"""The Flower app builds from this layout, and from what is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.flower_app import assemble, config_folder

ROOT = Path(__file__).resolve().parents[2]


def build(app, into):
    flwr = Path(sys.executable).parent / "flwr"
    into.mkdir()
    subprocess.run([flwr, "build", "--app", app], cwd=into, check=True, capture_output=True)
    [bundle] = into.glob("*.fab")
    with zipfile.ZipFile(bundle) as files:
        return set(files.namelist())


@pytest.mark.flower
def test_the_bundle_holds_the_app_and_neither_tests_nor_simulations(tmp_path):
    names = build(assemble(tmp_path / "fedsteph"), tmp_path / "out")
    for name in ("server/app.py", "client/app.py", "client/data/formats.py", "common/protocol.py", "pyproject.toml"):
        assert name in names
    assert not any(name.startswith(("simulations", "tests", "configs")) for name in names)


def test_assembling_again_leaves_nothing_of_before(tmp_path):
    app = assemble(tmp_path / "fedsteph")
    (app / "client" / "stale.py").write_text("")
    assert not (assemble(tmp_path / "fedsteph") / "client" / "stale.py").exists()


def test_configurations_travel_with_the_installation():
    assert (config_folder() / "simulate.yaml").read_bytes() == (ROOT / "configs" / "simulate.yaml").read_bytes()


def test_the_installed_command_works_from_an_empty_folder(tmp_path):
    fedsteph = Path(sys.executable).parent / "fedsteph"
    done = subprocess.run([fedsteph, "--version"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("fedsteph ")
    prepared = subprocess.run(
        [fedsteph, "simulate", "--prepare", "--out", "run"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert "target: target" in prepared.stderr
    assert (tmp_path / "run" / "manifest.json").is_file()
