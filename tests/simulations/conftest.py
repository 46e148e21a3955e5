"""What the tests of ``fedsteph benchmark`` share: a whole study by two worker processes, and one without any. What the
tests of pages share: a run, and a browser.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from reports import Reported, make_run
from studies import Ran, command, make_sites, write_study

from fedsteph.common.host.checked_file import read_json
from fedsteph.simulations.study import crew
from fedsteph.simulations.study.crew import Failed
from fedsteph.simulations.study.plan import Unit
from fedsteph.simulations.study.work import Ground, Worker


@pytest.fixture(scope="session")
def study_sites(tmp_path_factory) -> Path:
    """Three sites, not to be changed."""
    return make_sites(tmp_path_factory.mktemp("study") / "sites")


@pytest.fixture(scope="session")
def whole(study_sites, tmp_path_factory) -> Ran:
    """The study of :mod:`studies`, done in one go by two worker processes."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_study(folder / "study.yaml")
    ran = command(study, study_sites, folder / "out", workers=2, page=True)
    assert ran.returncode == os.EX_OK, ran.stderr
    results = read_json(folder / "out" / "results.json")
    return Ran(study, study_sites, folder / "out", results, ran.stderr)


@pytest.fixture
def units_done(monkeypatch) -> list[Unit]:
    """Does every unit in this very process; gives those that were asked for, in their order."""
    done: list[Unit] = []

    class Here:
        def __init__(self, ground: Ground, workers: int) -> None:
            monkeypatch.setattr(crew, "_worker", Worker(ground))

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def run_stage(self, units: Sequence[Unit], on_done: Callable[[Unit], None]) -> list[Failed]:
            failures = []
            for unit in units:
                failures.append(crew._do(unit)[1])
                done.append(unit)
                on_done(unit)
            return [failure for failure in failures if failure is not None]

    monkeypatch.setattr("fedsteph.simulations.study.run_study.Crew", Here)
    return done


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Reported:
    """A run with its page, not to be changed."""
    return make_run(tmp_path_factory.mktemp("reported"))
