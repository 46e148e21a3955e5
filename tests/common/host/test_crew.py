"""Worker processes: their results, their errors, and their end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from crew_work import begin, times
from endings import has_ended

from fedsteph.common.errors import DataError, EngineError
from fedsteph.common.host.crew import Crew

ENDLESS = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from crew_work import begin, endless
from fedsteph.common.host.crew import Crew
with Crew(2, begin, 1, where=Path("here"), remedy="none") as crew:
    list(crew.each(endless, sys.argv[3:]))
"""


def crew(factor: int = 3) -> Crew:
    return Crew(2, begin, factor, where=Path("state"), remedy="Use fewer")


def test_units_are_done_in_other_processes_and_told_of():
    told = []
    with crew() as workers:
        found = dict(workers.each(times, [5, 6, 7], [1.0, 1.0, 4.0], lambda *at: told.append(at)))
        again = dict(workers.each(times, [8]))
    assert [found[i][0] for i in range(3)] == [15, 18, 21] and again[0][0] == 24
    assert told == sorted(told) and told[-1] == (6.0, 6.0)
    assert all(has_ended(pid) for _, pid in found.values())


@pytest.mark.parametrize(
    ("factor", "unit", "expected", "words"),
    [
        (3, "refused", DataError, "unit: is refused. Give a number"),
        (-1, 1, DataError, "factor: is negative. Give a positive one"),
        (3, "killed", EngineError, "state: a worker process was killed, perhaps because memory ran out. Use fewer"),
    ],
)
def test_what_goes_wrong_in_a_worker_comes_back_as_its_own_error(factor, unit, expected, words):
    with pytest.raises(expected) as caught, crew(factor) as workers:
        list(workers.each(times, [1, unit]))
    assert caught.value.sentence == words


def test_no_worker_is_left_when_the_first_process_is_killed(tmp_path):
    root, builders = Path(__file__).parents[3], Path(__file__).parents[2] / "builders"
    units = [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-c", ENDLESS, root, builders, *units]
    with subprocess.Popen(list(map(str, command))) as process:
        until = time.monotonic() + 60
        while not all(unit.exists() for unit in units):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.kill()
    assert all(has_ended(int(unit.read_text())) for unit in units)
