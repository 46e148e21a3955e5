"""Slow work is told of in a log: while it lasts, and when it is done; quick work is not."""

from __future__ import annotations

import threading

import pytest

from fedsteph.common.host import progress_lines
from fedsteph.common.host.progress_lines import logged


class Lines(list[str]):
    """What was told; a test can wait for the next line."""

    def __init__(self) -> None:
        super().__init__()
        self.new = threading.Event()

    def tell(self, line: str) -> None:
        self.append(line)
        self.new.set()

    def wait(self) -> None:
        assert self.new.wait(30)
        self.new.clear()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress_lines, "FIRST_SECONDS", 0.0)


def test_slow_work_is_told_of_while_it_lasts_and_at_its_end(at_once):
    lines = Lines()
    with logged(lines.tell) as progress:
        progress("solving")  # reports nothing
        lines.wait()
        progress("drawing")(1, 4)
        lines.wait()  # the end of the first
        if len(lines) == 2:
            lines.wait()
    assert lines == ["solving ... (0 s)", "solving: done (0 s)", "drawing ... 25% (0 s)", "drawing: done (0 s)"]


def test_quick_work_is_not_told_of():
    lines = Lines()
    with logged(lines.tell) as progress:
        progress("reading")(1, 1)
    assert lines == []


def test_work_that_failed_is_not_done(at_once):
    lines = Lines()
    with pytest.raises(KeyError), logged(lines.tell) as progress:
        progress("reading")
        lines.wait()
        raise KeyError
    assert lines == ["reading ... (0 s)"]
