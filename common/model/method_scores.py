"""A method's C-index at one target, fold by fold, and its difference to the local model's."""

from __future__ import annotations

from dataclasses import dataclass

Interval = tuple[float, float]  # the 2.5 and 97.5 percent ends


@dataclass(frozen=True)
class MethodScores:
    """C-index per fold, mean, 95% bootstrap intervals; None without a comparable pair, which the mean leaves out."""

    c_index: tuple[float | None, ...]
    fold_intervals_95: tuple[Interval | None, ...]
    mean: float | None
    interval_95: Interval | None


@dataclass(frozen=True)
class MinusLocal:
    """A method minus the local model: mean difference in C-index, its 95% interval, and the number of folds won."""

    mean: float | None
    interval_95: Interval | None
    folds_won: int
