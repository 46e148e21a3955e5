"""Two or more things timed in turn, A B A B, so that a machine that slows down slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from fedsteph.simulations.bench.figures import Spread


def in_turn(
    things: Mapping[str, Callable[[], object]], repeats: int
) -> tuple[dict[str, Spread], dict[str, list[float]]]:
    """Run every thing once untimed, then ``repeats`` rounds of all of them in their order.

    Returns:
        the spread of each in seconds, and each one's seconds round by round.
    """
    for thing in things.values():
        thing()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, thing in things.items():
            seconds[name].append(seconds_of(thing))
    return {name: Spread.of(values) for name, values in seconds.items()}, seconds


def seconds_of(thing: Callable[[], object]) -> float:
    """Run a thing once."""
    started = time.perf_counter()
    thing()
    return time.perf_counter() - started


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """The median over rounds of one thing's seconds by another's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))
