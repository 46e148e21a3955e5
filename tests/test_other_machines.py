"""Without what Windows lacks, a site's data are checked, its model is trained and used, and a federation simulated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sites import TINY, make_site

# Runs at the start of every Python process, helper processes too. What Python and psutil choose by the platform is
# loaded before; this is no Windows.
LACKING = """
import asyncio, os, psutil, select, signal, socketserver, subprocess, sys, tempfile
for name in ("fcntl", "resource", "grp", "pwd"):
    sys.modules[name] = None
for module, names in {
    os: "geteuid getuid fork getpgid killpg nice sched_getaffinity sysconf O_NOFOLLOW "
        "O_CLOEXEC WNOHANG",
    select: "poll",
    signal: "SIGALRM SIGXCPU alarm setitimer",
}.items():
    for name in names.split():
        delattr(module, name)
"""
CALLS = """
import json, sys
from typer.main import get_command
from fedsteph.__main__ import app
command = get_command(app)
for words in json.loads(sys.argv[1]):
    assert not command(words, standalone_mode=False), words
"""


CHILD = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
sys.exit(3)
"""


@pytest.fixture
def lacking(tmp_path: Path) -> dict[str, str]:
    """The environment of such a machine."""
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "sitecustomize.py").write_text(LACKING)
    return os.environ | {"PYTHONPATH": str(tmp_path / "lacking")}


def test_every_command_of_one_machine_works_without_posix(tmp_path: Path, lacking: dict[str, str]) -> None:
    sites = [make_site(tmp_path / "sites" / name, patients=16, seed=seed) for seed, name in enumerate("ab")]
    features, run, settings = sites[0] / "features", tmp_path / "run", [f"--set={one}" for one in TINY]
    state = tmp_path / "state"
    simulate = ["simulate", "--sites", tmp_path / "sites", "--out", run, "--engine", "in-process", "--no-report"]
    calls = [
        ["data", "check", sites[0]],
        ["train", sites[0], "--out", state, *settings],
        ["predict", state / "model.safetensors", "--features", features, "--out", tmp_path / "risk.csv"],
        [*simulate, *settings, "--set=federation.targets=[a]"],
        ["report", run, "--shared"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls, default=str)],
        env=lacking,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (state / "report-training" / "index.html").is_file() and (tmp_path / "risk.csv").is_file()
    assert json.loads((run / "results.json").read_text())["targets"].keys() == {"a"}


def test_a_leash_ends_what_a_program_left_behind_without_posix(lacking: dict[str, str]) -> None:
    words = [sys.executable, "-m", "fedsteph.simulations.run.leash", sys.executable, "-c", CHILD]
    with subprocess.Popen(words, env=lacking, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leash:
        assert leash.wait(timeout=60) == 3
        assert leash.stdout is not None and leash.stdout.read() == b""  # nobody holds it any more
