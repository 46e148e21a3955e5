"""Progress lines: never too many, never without the first and the last, and readable while they grow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsteph.common.host import progress_log
from fedsteph.common.host.progress import part, silent, unseen
from fedsteph.common.host.progress_log import FILE, ProgressLine, ProgressLog, read_progress


class Clock:
    """Time as the test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress_log, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def reported(folder: Path) -> list[tuple[str, float]]:
    return [(line.phase, line.done) for line in read_progress((folder / FILE).read_text())]


def test_lines_come_back(tmp_path: Path, clock: Clock) -> None:
    log = ProgressLog(tmp_path / "new" / "folder", 'si"te\n')
    log.report("train.local", 1 / 3, 5)
    log.report("train.local", 5, 5)
    assert read_progress((tmp_path / "new" / "folder" / FILE).read_text()) == [
        ProgressLine('si"te\n', "train.local", 0.333, 5),
        ProgressLine('si"te\n', "train.local", 5, 5),
    ]


def test_at_most_two_lines_per_second(tmp_path: Path, clock: Clock) -> None:
    log = ProgressLog(tmp_path, "a")
    for i in range(100):
        log.report("fit", i, 100)
        clock.now += 0.125
    assert reported(tmp_path) == [("fit", i) for i in range(0, 100, 4)]


def test_the_first_and_the_last_of_a_phase_are_always_there(tmp_path: Path, clock: Clock) -> None:
    """Although no time goes by, and although a phase begins in its middle."""
    log = ProgressLog(tmp_path, "a")
    for phase in ("one", "two"):
        for done in (1, 2, 3):
            log.report(phase, done, 3)
    assert reported(tmp_path) == [("one", 1), ("one", 3), ("two", 1), ("two", 3)]


def test_a_second_process_appends(tmp_path: Path, clock: Clock) -> None:
    ProgressLog(tmp_path, "a").report("one", 0, 3)
    ProgressLog(tmp_path, "a").report("one", 3, 3)
    assert reported(tmp_path) == [("one", 0), ("one", 3)]


def test_a_line_being_written_is_left_for_later(tmp_path: Path, clock: Clock) -> None:
    log = ProgressLog(tmp_path, "a")
    log.report("one", 0, 3)
    log.report("one", 3, 3)
    text = (tmp_path / FILE).read_text()
    first = text.index("\n") + 1
    for length in range(len(text) + 1):
        assert len(read_progress(text[:length])) == (length >= first) + (length == len(text))


def test_parts_of_parts_add_up():
    """A piece of work moves a larger bar by its share."""
    told = []
    folds = [part(lambda *step: told.append(step), 3 * fold, 6, 3) for fold in range(2)]
    for fold in folds:
        part(fold, 1, 3, 2)(1, 4)
        part(fold, 0, 3)(5, 5)
    assert told == [(1.5, 6), (1, 6), (4.5, 6), (4, 6)] and unseen("a name") is silent
