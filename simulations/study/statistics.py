"""Statistics of a study's C-indices: means, standard deviations over folds, and paired bootstrap intervals.

The bootstrap resamples the test patients of each fold, with the same draws for every row and seed. So the intervals
describe the given trained models on other patients of these cohorts. The spread over training seeds is reported
separately.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from fedsteph.common.model.concordance import Pairs
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled

# Pairs of one row on one target: ``[seed][fold]``.
SeedFolds = Sequence[Sequence[Pairs]]


@dataclass(frozen=True)
class TargetScores:
    """C-indices of all rows on one target, and their bootstrap resamples with common draws."""

    by_fold: dict[str, list[list[float | None]]]  # row -> [seed][fold]
    resamples: dict[str, np.ndarray] = field(repr=False)  # row -> (resamples,), mean over folds and seeds
    by_fold_resamples: dict[str, list[np.ndarray | None]] = field(repr=False)  # row -> [fold]; None: no comparable pair

    def mean(self, row: str) -> float | None:
        """Mean over folds of the mean over seeds."""
        folds = self.fold_means(row)
        return fmean(folds) if folds else None

    def sd(self, row: str) -> float | None:
        """Standard deviation over folds, as in table 1 of the paper."""
        folds = self.fold_means(row)
        return stdev(folds) if len(folds) > 1 else None

    def seed_sd(self, row: str) -> float | None:
        """Standard deviation over seeds of the mean over folds."""
        means = [fmean(v for v in folds if v is not None) for folds in self.by_fold[row] if any(_defined(folds))]
        return stdev(means) if len(means) > 1 else None

    def fold_means(self, row: str) -> list[float]:
        """The mean over seeds, for each fold with a comparable pair."""
        columns = zip(*self.by_fold[row], strict=True)
        return [fmean(v for v in column if v is not None) for column in columns if all(_defined(column))]

    def interval(self, row: str) -> list[float] | None:
        """95% interval of :meth:`mean`."""
        return _listed(interval_95(self.resamples[row]))

    def fold_intervals(self, row: str) -> list[list[float] | None]:
        """95% interval of each fold's mean over seeds."""
        return [None if one is None else _listed(interval_95(one)) for one in self.by_fold_resamples[row]]


def _defined(values: Sequence[float | None]) -> list[bool]:
    return [value is not None for value in values]


def target_scores(name: str, rows: Mapping[str, SeedFolds], resamples: int) -> TargetScores:
    """Score all rows of one target with the same bootstrap draws.

    Args:
        rows: row -> its pairs, ``[seed][fold]``.
        resamples: number of bootstrap resamples.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    names, n_folds = list(rows), len(next(iter(rows.values()))[0])
    total: list[np.ndarray] = []
    folds: list[np.ndarray | None] = []
    for fold in range(n_folds):
        models = [seed[fold] for row in names for seed in rows[row]]
        if not models[0].n_comparable:
            folds.append(None)
            continue
        values = resampled(models, resamples=resamples, rng=rng)
        total.append(values.reshape(len(names), -1, resamples).mean(axis=1))  # mean over seeds
        folds.append(total[-1])
    nothing = np.full((len(names), resamples), np.nan)
    means = [mean_over_folds(np.stack([fold[i] for fold in total])) for i in range(len(names))] if total else nothing
    by_fold = {row: [[fold.c_index for fold in seed] for seed in rows[row]] for row in names}
    of_folds = {row: [None if fold is None else fold[i] for fold in folds] for i, row in enumerate(names)}
    return TargetScores(by_fold, dict(zip(names, means, strict=True)), of_folds)


def difference(scores: Sequence[TargetScores], row: str, reference: str) -> dict[str, Any]:
    """Compare a row with a reference over all targets: mean difference, its interval, and targets and folds won."""
    means = [(one.mean(row), one.mean(reference)) for one in scores]
    gaps = [a - b for a, b in means if a is not None and b is not None]
    pairs = [
        (a, b)
        for one in scores
        for seeds in zip(one.by_fold[row], one.by_fold[reference], strict=True)
        for a, b in zip(*seeds, strict=True)
        if a is not None and b is not None
    ]
    spread = mean_over_folds(np.stack([one.resamples[row] - one.resamples[reference] for one in scores]))
    return {
        "difference": fmean(gaps) if gaps else None,
        "interval_95": _listed(interval_95(spread)),
        "targets_won": sum(gap > 0 for gap in gaps),
        "targets": len(gaps),
        "worst_target": min(gaps) if gaps else None,
        "folds_won": sum(a > b for a, b in pairs),
        "folds": len(pairs),
    }


def overall(scores: Sequence[TargetScores], row: str) -> dict[str, Any]:
    """A row's mean C-index over targets, with its 95% interval."""
    means = [mean for one in scores if (mean := one.mean(row)) is not None]
    return {
        "mean": fmean(means) if means else None,
        "interval_95": _listed(interval_95(mean_over_folds(np.stack([one.resamples[row] for one in scores])))),
    }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
