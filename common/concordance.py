"""Harrell's concordance index and its bootstrap interval (Harrell et al., JAMA 1982)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TIED_RISK = 1e-8


@dataclass(frozen=True)
class Pairs:
    """The comparable pairs of one test set.

    ``comparable[i, j]`` is 1 where i is known to fail before j; ``score[i, j]`` is 1 where i also has
    the higher risk, and 1/2 where the risks tie within 1e-8. An event at a censoring's time is earlier than
    it; two events at equal times are not comparable.
    """

    comparable: np.ndarray  # (n, n) float32
    score: np.ndarray  # (n, n) float32

    @property
    def n_comparable(self) -> int:
        """Number of comparable pairs."""
        return int(self.comparable.sum(dtype=np.float64))

    @property
    def concordant(self) -> float:
        """Concordant pairs, risk ties counting 1/2."""
        return float(self.score.sum(dtype=np.float64))

    @property
    def c_index(self) -> float | None:
        """Harrell's C, or None when no pair is comparable."""
        n = self.n_comparable
        return self.concordant / n if n else None


def pairs(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> Pairs:
    """Compare all patients of a test set.

    Args:
        risk: ``(n,)``, higher = worse.
        t: ``(n,)`` days.
        e: ``(n,)``, 1 = event.

    Raises:
        ValueError: a risk is not finite, so that no order exists.
    """
    risk, t, e = (np.asarray(values, dtype=np.float64) for values in (risk, t, e))
    if not np.isfinite(risk).all():
        raise ValueError("every risk must be finite")
    earlier = (t[:, None] < t[None, :]) | ((t[:, None] == t[None, :]) & (e[None, :] == 0))
    comparable = earlier & (e[:, None] == 1)
    difference = risk[:, None] - risk[None, :]
    score = np.where(np.abs(difference) <= TIED_RISK, 0.5, (difference > 0).astype(np.float64))
    return Pairs(comparable.astype(np.float32), (score * comparable).astype(np.float32))


def c_index(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> float | None:
    """Harrell's C of one test set, or None when it has no comparable pair."""
    return pairs(risk, t, e).c_index


def bootstrap_mean(
    methods: list[list[Pairs]], signs: list[float], *, resamples: int, seed: int
) -> tuple[float, float] | None:
    """95% percentile interval of ``sum_m signs[m] * (mean over folds of method m's C)``.

    Patients are resampled within each fold, with the same draw for every method, so that ``[a], [1]`` gives
    the interval of one method and ``[a, b], [1, -1]`` the paired interval of their difference. Folds without a
    comparable pair are left out.

    Args:
        methods: per method its :class:`Pairs`, one per fold, all over the same patients.

    Returns:
        ``(low, high)``, or None when no fold, or no resample of one, has a comparable pair.
    """
    folds = [fold for fold in zip(*methods, strict=True) if fold[0].n_comparable]
    if not folds:
        return None
    rng = np.random.default_rng(seed)
    values = [np.asarray(signs) @ resampled(fold, resamples=resamples, rng=rng) for fold in folds]
    return interval_95(mean_over_folds(np.stack(values)))


def resampled(models: Sequence[Pairs], *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """C of several models on one test set under the same resamples of its patients.

    Args:
        models: their pairs, all over the same patients.

    Returns:
        ``(n_models, resamples)``, NaN where a resample has no comparable pair.
    """
    comparable = models[0].comparable
    n = len(comparable)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float32)
    count = np.einsum("ri,ri->r", draws @ comparable, draws)
    scores = np.stack([np.einsum("ri,ri->r", draws @ one.score, draws) for one in models])
    c: np.ndarray = np.divide(scores, count, out=np.full_like(scores, np.nan), where=count > 0)
    return c


def mean_over_folds(values: np.ndarray) -> np.ndarray:
    """``(n_folds, resamples) -> (resamples,)``: the mean over the folds that are defined there; NaN where none is."""
    defined = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    mean: np.ndarray = np.divide(total, defined, out=np.full(len(total), np.nan), where=defined > 0)
    return mean


def interval_95(values: np.ndarray) -> tuple[float, float] | None:
    """95% percentile interval of resampled values; None where not one is defined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
