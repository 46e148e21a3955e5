"""Times two or more functions in turn (A B A B), so that a change in the machine's speed affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from fedsteph.simulations.bench.figures import Spread


def in_turn(
    things: Mapping[str, Callable[[], object]], repeats: int
) -> tuple[dict[str, Spread], dict[str, list[float]]]:
    """Run all once untimed, then ``repeats`` rounds in order; the spread of each, and its seconds per round."""
    for thing in things.values():
        thing()
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, thing in things.items():
            seconds[name].append(seconds_of(thing))
    return {name: Spread.of(values) for name, values in seconds.items()}, seconds


def seconds_of(thing: Callable[[], object]) -> float:
    """Run a function once; returns its duration in seconds."""
    started = time.perf_counter()
    thing()
    return time.perf_counter() - started


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """Median over rounds of the seconds of ``of`` divided by those of ``to`` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))
