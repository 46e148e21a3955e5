"""Progress of long work: functions that are called with the amount of work done and in total."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, float], None]  # called with the work done, fractions included, and the total
NamedProgress = Callable[[str], Progress]  # the progress of the work of this name


def silent(done: float, total: float) -> None:
    """Ignore the progress of a piece of work."""


def unseen(name: str) -> Progress:
    """Ignore the progress of the work of any name."""
    return silent


def part(progress: Progress, before: float, total: float, size: float = 1) -> Progress:
    """Progress of a piece of a larger work: ``size`` of its ``total`` units, after the first ``before``."""
    return lambda done, of: progress(before + size * done / of, total)
