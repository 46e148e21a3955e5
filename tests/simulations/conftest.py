"""What the tests of ``fedsteph benchmark`` share: a whole study. What those of pages share: a run."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from reports import Reported, fedsteph, make_run
from studies import Ran, in_this_process, make_sites, write_study

from fedsteph.common.host.checked_file import read_json
from fedsteph.simulations.study.plan import Unit


@pytest.fixture(scope="session")
def study_sites(tmp_path_factory) -> Path:
    """Three sites, not to be changed."""
    return make_sites(tmp_path_factory.mktemp("study") / "sites")


@pytest.fixture(scope="session")
def whole(study_sites, tmp_path_factory) -> Ran:
    """The study of :mod:`studies` with its page, done in one go in this process; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    study, out = write_study(folder / "study.yaml"), folder / "out"
    with in_this_process(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert fedsteph("benchmark", study, "--sites", study_sites, "--out", out) == 0
    return Ran(study, study_sites, out, read_json(out / "results.json"))


@pytest.fixture
def units_done() -> Iterator[list[Unit]]:
    """Does every unit in this very process; gives those that were asked for, in their order."""
    with in_this_process() as done:
        yield done


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Reported:
    """A run with its page, not to be changed."""
    return make_run(tmp_path_factory.mktemp("reported"))
