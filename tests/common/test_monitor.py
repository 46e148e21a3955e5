"""Without a terminal, whoever watches a run reads lines, and now and then that a long phase goes on."""

from __future__ import annotations

import pytest

from common import console, monitor
from common.progress import Progress


@pytest.fixture
def watched(monkeypatch, capsys):
    """A display without a terminal, and its clock; gives what it has said since."""
    now = [100.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    with console.progress_bars() as bars:
        bars.disable = True
        display = monitor._Display(bars)

        def after(seconds: float, event: Progress | None = None) -> list[str]:
            now[0] += seconds
            if event is not None:
                display.update(event)
            display.tick()
            return capsys.readouterr().err.splitlines()

        yield after


def event(phase: str, done: int, total: int = 4) -> Progress:
    return Progress("server", phase, done, total)


def test_a_long_phase_goes_on(watched):
    assert watched(0, event("train.local", 0)) == ["server: train.local 0%"]
    assert watched(19.9) == []
    assert watched(0.1) == ["train.local goes on (20 s)"]
    assert watched(10) == []
    assert watched(10) == ["train.local goes on (40 s)"]


def test_before_the_first_report_too(watched):
    assert watched(20) == ["starting goes on (20 s)"]


def test_whoever_has_just_spoken_is_not_silent(watched):
    watched(0, event("train.local", 0))
    assert watched(15, event("train.local", 1)) == ["server: train.local 25%"]
    assert watched(15) == []
    assert watched(5) == ["train.local goes on (35 s)"]


def test_the_seconds_are_those_of_the_phase(watched):
    watched(0, event("query.hello", 4))
    watched(30, event("train.local", 0))
    assert watched(20) == ["train.local goes on (20 s)"]


def test_with_bars_nothing_is_said(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    with console.progress_bars() as bars:
        bars.disable = True  # or it would draw here
        display = monitor._Display(bars)
        bars.disable = False
        now[0] = 1000
        display.tick()
        bars.disable = True
    assert "goes on" not in capsys.readouterr().err
