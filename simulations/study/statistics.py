"""Statistics of a study's C-indices: means, standard deviations over folds, and paired bootstrap intervals.

The bootstrap resamples the test patients of each fold, with the same draws for every row and seed. So the intervals
describe the given trained models on other patients of these cohorts; the spread over training seeds stands apart. With
enough targets, a second interval of a difference resamples the targets too: it describes other cohorts like these.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

import numpy as np

from fedsteph.client.evaluation.metrics import defined_mean
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled
from fedsteph.simulations.study.study_results import Comparison, Level

# Pairs of one row on one target: ``[seed][fold]``.
SeedFolds = Sequence[Sequence[Pairs]]
ENOUGH_TARGETS = 8  # for an interval that resamples the targets too


@dataclass(frozen=True)
class Tested:
    """A model on its test patients: their risk and outcomes, each ``(n_patients,)``."""

    risk: np.ndarray
    times: np.ndarray
    events: np.ndarray

    @property
    def pairs(self) -> Pairs:
        """The comparable pairs, under this risk."""
        return pairs(self.risk, self.times, self.events)


def of_seeds(models: Sequence[Tested]) -> Tested:
    """The mean risk of one fold's models of several seeds, each risk standardised over the test patients."""
    spreads = [float(one.risk.std()) or 1.0 for one in models]
    risks = [(one.risk - one.risk.mean()) / sd for one, sd in zip(models, spreads, strict=True)]
    return replace(models[0], risk=np.mean(risks, axis=0))


@dataclass(frozen=True)
class TargetScores:
    """C-indices of all rows on one target, and their bootstrap resamples with common draws."""

    by_fold: dict[str, list[list[float | None]]]  # row -> [seed][fold]
    resamples: dict[str, np.ndarray] = field(repr=False)  # row -> (resamples,), mean over folds and seeds
    by_fold_resamples: dict[str, list[np.ndarray | None]] = field(repr=False)  # row -> [fold]; None: no comparable pair
    together: TargetScores | None = None  # of the mean risk of all seeds, as if of one seed; None: there is one seed

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


def study_scores(name: str, rows: Mapping[str, Sequence[Sequence[Tested]]], resamples: int) -> TargetScores:
    """Score all rows of one target, each ``[seed][fold]``; of several seeds, also their mean risk (``together``)."""
    apart = {row: [[fold.pairs for fold in seed] for seed in seeds] for row, seeds in rows.items()}
    scores = target_scores(name, apart, resamples)
    if len(next(iter(rows.values()))) < 2:
        return scores
    joined = {row: [[of_seeds(fold).pairs for fold in zip(*seeds, strict=True)]] for row, seeds in rows.items()}
    return replace(scores, together=target_scores(name, joined, resamples))


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
    found = _difference(scores, row, reference)
    if joined := _joined(scores):
        found["together"] = _difference(joined, row, reference)
    return found


def _joined(scores: Sequence[TargetScores]) -> list[TargetScores]:
    """The scores of all seeds together; empty if there is one seed."""
    return [one.together for one in scores if one.together is not None]


def _difference(scores: Sequence[TargetScores], row: str, reference: str) -> Comparison:
    gaps = _gaps((one.mean(row), one.mean(reference)) for one in scores)
    seeds = [pair for one in scores for pair in zip(one.by_fold[row], one.by_fold[reference], strict=True)]
    fold_gaps = _gaps(pair for folds in seeds for pair in zip(*folds, strict=True))
    drawn = np.stack([one.resamples[row] - one.resamples[reference] for one in scores])
    spread = mean_over_folds(drawn)
    found: Comparison = {
        "difference": defined_mean(gaps),
        "interval_95": _listed(interval_95(spread)),
        "targets_won": sum(gap > 0 for gap in gaps),
        "targets": len(gaps),
        "worst_target": min(gaps, default=None),
        "folds_won": sum(gap > 0 for gap in fold_gaps),
        "folds": len(fold_gaps),
    }
    if len(gaps) >= ENOUGH_TARGETS:
        found["interval_95_targets"] = _listed(_of_targets(drawn))
    return found


def _of_targets(drawn: np.ndarray) -> tuple[float, float] | None:
    """95% interval of the mean over targets, from a two-level bootstrap.

    Each resample draws as many targets as there are, with replacement, and for every one drawn a resample of its
    patients. ``drawn`` is ``(n_targets, resamples)``; targets without a comparable pair are left out.
    """
    known = drawn[np.isfinite(drawn).any(axis=1)]
    n, resamples = known.shape
    rng = np.random.default_rng(0)
    targets, patients = rng.integers(n, size=(n, resamples)), rng.integers(resamples, size=(n, resamples))
    return interval_95(mean_over_folds(known[targets, patients]))


def _gaps(pairs: Iterable[tuple[float | None, float | None]]) -> list[float]:
    """First minus second C-index of every pair in which both are defined."""
    return [a - b for a, b in pairs if a is not None and b is not None]


def overall(scores: Sequence[TargetScores], row: str) -> Level:
    """A row's mean C-index over targets, with its 95% interval; of several seeds, also of their mean risk."""
    found = _overall(scores, row)
    if joined := _joined(scores):
        found["together"] = _overall(joined, row)
    return found


def _overall(scores: Sequence[TargetScores], row: str) -> Level:
    return {
        "mean": defined_mean([one.mean(row) for one in scores]),
        "interval_95": _listed(interval_95(mean_over_folds(np.stack([one.resamples[row] for one in scores])))),
    }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
