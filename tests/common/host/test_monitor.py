"""Without a terminal, whoever watches a run reads lines, and now and then that a long phase goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedsteph.common.host import monitor
from fedsteph.common.host.progress_log import ProgressLine


@pytest.fixture
def watched(monkeypatch, capsys):
    """A display without a terminal, and its clock; gives what it has said since."""
    now = [100.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    lines = monitor._Lines()

    def after(seconds: float, event: ProgressLine | None = None) -> list[str]:
        now[0] += seconds
        if event is not None:
            lines.update(event)
        lines.tick()
        return capsys.readouterr().err.splitlines()

    return after


def event(phase: str, done: int, total: int = 4) -> ProgressLine:
    return ProgressLine("server", phase, done, total)


def test_a_long_phase_goes_on(watched):
    assert watched(0, event("train.local", 0)) == ["server: train.local 0%"] and watched(19.9) == []
    assert watched(0.1) == ["train.local goes on (20 s)"] and watched(10) == []
    assert watched(10) == ["train.local goes on (40 s)"]


def test_whoever_has_just_spoken_is_not_silent(watched):
    """The seconds are those of the phase; and before the first report as well."""
    assert watched(20) == ["starting goes on (20 s)"]
    watched(0, event("train.local", 0))
    assert watched(15, event("train.local", 1)) == ["server: train.local 25%"] and watched(15) == []
    assert watched(5) == ["train.local goes on (35 s)"]
    watched(30, event("train.share", 0))
    assert watched(20) == ["train.share goes on (20 s)"]


def test_the_last_that_was_said_stands_behind_a_phase_that_goes_on(watched):
    waiting = ProgressLine("server", "query.hello", 1, 4, "waiting for kirc")
    assert watched(0, waiting) == ["server: query.hello 25% (waiting for kirc)"]
    assert watched(20) == ["query.hello goes on (20 s); server: waiting for kirc"]
    watched(0, event("train.local", 0))
    assert watched(20) == ["train.local goes on (20 s)"]


@pytest.fixture
def board(monkeypatch):
    """A board at a clock, and what it shows: cells by party, in the order of the columns."""
    now = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    shown = monitor.Board()

    def after(seconds: float, *events: ProgressLine) -> dict[str, list[str]]:
        now[0] += seconds
        for one in events:
            shown.update(one)
        console = Console(width=160, file=io.StringIO(), force_terminal=False)
        console.print(shown.table())
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()[1:]
        return {line.split()[0]: line.split()[1:] for line in lines}

    return after


def test_the_table_has_a_row_per_party_with_its_phase_progress_and_last_message(board):
    assert board(0)["-"][:1] == ["starting"]
    rows = board(
        0, ProgressLine("server", "train.local", 0, 2), ProgressLine("kirp", "train.local", 0.5, 2, "model 1 of 2")
    )
    assert list(rows) == ["server", "kirp"]
    assert rows["kirp"][0] == "train.local" and rows["kirp"][-5:] == ["0", "model", "1", "of", "2"]
    assert "25%" in rows["kirp"] and "0%" in rows["server"]


def test_a_message_stays_until_the_next_one_or_the_next_phase(board):
    board(0, ProgressLine("kirp", "train.local", 0, 2, "model 1 of 2"))
    rows = board(7, ProgressLine("kirp", "train.local", 1, 2))
    assert rows["kirp"][-5:] == ["7", "model", "1", "of", "2"]
    assert board(0, ProgressLine("kirp", "train.share", 0, 1))["kirp"][-2:] == ["0%", "0"]
