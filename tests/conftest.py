"""What tests of several packages ask for: the command line, and the reviewed app, which takes seconds to install."""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from reviewed_homes import copy_home
from side_by_side import Groups, earliness, folders_of, n_processes
from typer.main import get_command

from fedsteph.__main__ import app
from fedsteph.client.deployment.reviewed_app import install
from fedsteph.commands.terminal.exit_codes import run as run_command
from fedsteph.common.deployment.checks import Check, start_verdict
from fedsteph.common.deployment.flower_app import own_digest
from fedsteph.common.host import progress_lines, unchanged

# Python starts some hundred times in these tests: it should compile each module once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# No test cuts the power: what is written need not reach the disk.
os.fsync = lambda file: None
# Several processes share two cores: threads of their own would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests: the same examples in every run, and no clock.
settings.register_profile("fedsteph", deadline=None, derandomize=True)
settings.load_profile("fedsteph")


def pytest_configure(config: pytest.Config) -> None:
    """Let each of several processes begin with other folders: most modules are then compiled by one of them alone."""
    if hasattr(config, "workerinput") and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.args = folders_of(config.rootpath / "tests", config.workerinput["workerid"])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    return n_processes(config)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Groups:
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In one process as well, so that a test does not come after others in one way only."""
    items.sort(key=lambda item: (earliness(item.nodeid), item.path))


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: Python need not look through it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def settled_soon() -> None:
    """Tests read what they have just written: its headers are remembered once it is 50 ms old, and not 2 s.

    File systems tell times to some 10 ms.
    """
    unchanged._SETTLED_NS = 50_000_000


@pytest.fixture(autouse=True, scope="session")
def unhurried() -> None:
    """What a command says does not depend on how busy the machine is: no step is told of for being slow."""
    progress_lines.FIRST_SECONDS = 3600


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """A ClientApp closes its files to others for the rest of its process, which tests share."""
    os.umask(0o022)
    yield
    os.umask(0o022)


@functools.cache
def command_line() -> Callable[..., Any]:
    """The tree of all commands, which takes as long to make as most commands take."""
    return get_command(app)


@pytest.fixture
def cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives its exit code, stdout and stderr, in which there is never a traceback."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(lambda: command_line()([str(word) for word in words], standalone_mode=False))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refused(cli) -> Callable[..., str]:
    """Runs a command line that must fail by its user's fault; gives the one line that says why."""

    def run(*words: object) -> str:
        code, out, err = cli(*words)
        assert (code, out) == (1, "")
        last = err.strip().splitlines()[-1]
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return run


@pytest.fixture(scope="session")
def installed_once(tmp_path_factory) -> Path:
    """A FLWR_HOME with the reviewed app, by the real 'flwr'; not to be changed."""
    home = tmp_path_factory.mktemp("reviewed") / "flwr"
    install(home)
    return home


@pytest.fixture(scope="session")
def own_code(installed_once) -> str:
    """The digest of this fedsteph's own code, worked out once."""
    return own_digest()


@pytest.fixture
def reviewed_home(installed_once, tmp_path) -> Path:
    """A copy of it, read-only as well, which a test may change as root would."""
    return copy_home(installed_once, tmp_path / "flwr")


@pytest.fixture
def quick_start(monkeypatch):
    """The doctor starts no app, which takes seconds; tests/common/deployment/test_checks.py does that."""
    for module in ("client.deployment.site_doctor", "server.deployment.server_doctor"):
        monkeypatch.setattr(f"fedsteph.{module}.app_start", lambda modules: start_verdict(1.0))


@pytest.fixture
def doctor(cli, quick_start):
    """Runs ``fedsteph doctor``; gives its exit code and the checks by name, after holding them against each other."""

    def run(*words: object) -> tuple[int, dict[str, Check]]:
        code, out, err = cli("doctor", *words, "--json")
        found = json.loads(out)
        checks = {check["name"]: Check(**check) for check in found["checks"]}
        failed = [check for check in checks.values() if check.verdict == "FAIL"]
        assert found["ok"] == (not failed) == (code == 0)
        assert bool(failed) == (f"{len(failed)} of {len(checks)} checks failed" in err)
        return code, checks

    return run
