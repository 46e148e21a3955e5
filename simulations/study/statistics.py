"""Statistics of a study's C-indices: means, standard deviations over folds, and paired bootstrap intervals.

The bootstrap resamples the test patients of each fold, with the same draws for every row and seed. So the intervals
describe the given trained models on other patients of these cohorts; the spread over training seeds stands apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from fedsteph.client.evaluation.metrics import defined_mean
from fedsteph.common.model.concordance import Pairs
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled
from fedsteph.simulations.study.study_results import Comparison, Level

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
        return defined_mean(self.fold_means(row))

    def sd(self, row: str) -> float | None:
        """Standard deviation over folds, as in table 1 of the paper."""
        folds = self.fold_means(row)
        return stdev(folds) if len(folds) > 1 else None

    def seed_sd(self, row: str) -> float | None:
        """Standard deviation over seeds of the mean over folds."""
        means = [mean for folds in self.by_fold[row] if (mean := defined_mean(folds)) is not None]
        return stdev(means) if len(means) > 1 else None

    def fold_means(self, row: str) -> list[float]:
        """The mean over seeds, for each fold with a comparable pair."""
        columns = zip(*self.by_fold[row], strict=True)
        return [fmean(v for v in column if v is not None) for column in columns if None not in column]

    def interval(self, row: str) -> list[float] | None:
        """95% interval of :meth:`mean`."""
        return _listed(interval_95(self.resamples[row]))

    def fold_intervals(self, row: str) -> list[list[float] | None]:
        """95% interval of each fold's mean over seeds."""
        return [None if one is None else _listed(interval_95(one)) for one in self.by_fold_resamples[row]]


def target_scores(name: str, rows: Mapping[str, SeedFolds], resamples: int) -> TargetScores:
    """Score all rows of one target, each ``[seed][fold]``, with the same bootstrap draws."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n_folds = len(next(iter(rows.values()))[0])
    folds = [_resampled_fold(rows, fold, resamples, rng) for fold in range(n_folds)]
    by_fold = {row: [[fold.c_index for fold in seed] for seed in seeds] for row, seeds in rows.items()}
    of_folds = {row: [None if fold is None else fold[i] for fold in folds] for i, row in enumerate(rows)}
    return TargetScores(by_fold, {row: _mean(drawn, resamples) for row, drawn in of_folds.items()}, of_folds)


def _mean(folds: Sequence[np.ndarray | None], resamples: int) -> np.ndarray:
    """``(resamples,)``: per resample the mean over the folds with a comparable pair; NaN if there is none."""
    return mean_over_folds(np.array([fold for fold in folds if fold is not None]).reshape(-1, resamples))


def _resampled_fold(
    rows: Mapping[str, SeedFolds], fold: int, resamples: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Means over seeds in one fold, ``(n_rows, resamples)``; None without a comparable pair."""
    models = [seed[fold] for seeds in rows.values() for seed in seeds]
    if not models[0].n_comparable:
        return None
    means: np.ndarray = resampled(models, resamples=resamples, rng=rng).reshape(len(rows), -1, resamples).mean(axis=1)
    return means


def difference(scores: Sequence[TargetScores], row: str, reference: str) -> Comparison:
    """Compare a row with a reference over all targets: mean difference, its interval, and targets and folds won."""
    gaps = _gaps((one.mean(row), one.mean(reference)) for one in scores)
    seeds = [pair for one in scores for pair in zip(one.by_fold[row], one.by_fold[reference], strict=True)]
    fold_gaps = _gaps(pair for folds in seeds for pair in zip(*folds, strict=True))
    spread = mean_over_folds(np.stack([one.resamples[row] - one.resamples[reference] for one in scores]))
    return {
        "difference": defined_mean(gaps),
        "interval_95": _listed(interval_95(spread)),
        "targets_won": sum(gap > 0 for gap in gaps),
        "targets": len(gaps),
        "worst_target": min(gaps, default=None),
        "folds_won": sum(gap > 0 for gap in fold_gaps),
        "folds": len(fold_gaps),
    }


def _gaps(pairs: Iterable[tuple[float | None, float | None]]) -> list[float]:
    """First minus second C-index of every pair in which both are defined."""
    return [a - b for a, b in pairs if a is not None and b is not None]


def overall(scores: Sequence[TargetScores], row: str) -> Level:
    """A row's mean C-index over targets, with its 95% interval."""
    return {
        "mean": defined_mean([one.mean(row) for one in scores]),
        "interval_95": _listed(interval_95(mean_over_folds(np.stack([one.resamples[row] for one in scores])))),
    }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
