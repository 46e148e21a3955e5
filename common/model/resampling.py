"""Bootstrap intervals of Harrell's and Uno's C: resamples each fold's patients, with the same draws for all methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from fedsteph.common.model.concordance import Pairs

_DRAWS_PER_BLOCK = 2**22  # 16 MB in float32, and twice that while drawing


def resampled_folds(methods: Sequence[Sequence[Pairs]], *, resamples: int, seed: int) -> np.ndarray:
    """C-index of several methods, each with one :class:`Pairs` per fold, for bootstrap resamples of the patients.

    Patients are resampled within each fold, with the same draws for every method. Folds without a comparable pair are
    left out. Returns ``(n_methods, n_defined_folds, resamples)`` float64, NaN where a resample has no comparable pair.
    """
    folds = [fold for fold in zip(*methods, strict=True) if fold[0].c_index is not None]
    rng = np.random.default_rng(seed)
    values = [resampled(fold, resamples=resamples, rng=rng) for fold in folds]
    return np.stack(values, axis=1).astype(np.float64) if values else np.empty((len(methods), 0, resamples))


def resampled(models: Sequence[Pairs], *, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """C-index of several models on one test set, for the same bootstrap resamples of its patients.

    Returns ``(n_models, resamples)`` float32, NaN where a resample has no comparable pair.
    """
    c = np.full((len(models), resamples), np.nan, dtype=np.float32)
    for block, drawn in drawn_patients(len(models[0].order), resamples, rng):
        for values, one in zip(c, models, strict=True):
            values[block] = drawn_c_index(one, drawn)
    return c


def drawn_c_index(one: Pairs, drawn: np.ndarray) -> np.ndarray:
    """C-index ``(n_draws,)`` if every patient counts as often as ``drawn (n_draws, n)`` says; NaN without a pair."""
    draws = drawn[:, one.order].astype(np.float32)
    count = _drawn_pairs(one, draws)
    found: np.ndarray = np.divide(
        _drawn_concordant(one, draws), count, out=np.full(len(draws), np.nan), where=count > 0
    )
    return found


def drawn_patients(n: int, resamples: int, rng: np.random.Generator) -> Iterator[tuple[slice, np.ndarray]]:
    """Bootstrap draws in blocks: which resamples, and ``(n_block, n)``, how often each has every patient."""
    at_once = max(1, _DRAWS_PER_BLOCK // n)
    for done in range(0, resamples, at_once):
        size = min(at_once, resamples - done)
        yield slice(done, done + size), rng.multinomial(n, np.full(n, 1 / n), size=size)


def _drawn_pairs(one: Pairs, draws: np.ndarray) -> np.ndarray:
    """Number of comparable pairs per resample, ``(n_draws,)`` float64; ``draws`` ``(n_draws, n)``, sorted by time."""
    later = len(one.order) - np.cumsum(draws, axis=1)[:, one.later - 1]
    return _dot(_of_events(one, draws, slice(None)), later)


def _drawn_concordant(one: Pairs, draws: np.ndarray) -> np.ndarray:
    """Number of concordant pairs per resample, ``(n_draws,)`` float64; tied risks count 1/2."""
    doubled = np.zeros(len(draws))
    for block, place, scores in one.blocks():
        # Exact in float32: every number in this product is an integer of at most 2 n.
        doubled += _dot(_of_events(one, draws, block), draws[:, place:] @ scores.T.astype(np.float32))
    return doubled / 2


def _of_events(one: Pairs, draws: np.ndarray, block: slice) -> np.ndarray:
    """How much each event of a block counts in each resample."""
    drawn = draws[:, one.events[block]]
    return drawn if one.weight is None else drawn * one.weight[block]


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # In float64: the number of pairs grows with n^2 and exceeds the exact integers of float32.
    row_sums: np.ndarray = np.einsum("ri,ri->r", a, b, dtype=np.float64)
    return row_sums


def mean_over_folds(values: np.ndarray) -> np.ndarray:
    """``(n_folds, resamples) -> (resamples,)``: per resample the mean over the finite folds; NaN if there is none."""
    defined = np.isfinite(values).sum(axis=0)
    total = np.nansum(values, axis=0)
    mean: np.ndarray = np.divide(total, defined, out=np.full(len(total), np.nan), where=defined > 0)
    return mean


def interval_95(values: np.ndarray) -> tuple[float, float] | None:
    """95% percentile interval of resampled values ``(resamples,)``; None if none of them is finite."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def interval_of_mean(intervals: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95% interval of the mean over cohorts from theirs; None without any. Assumes independent normal errors."""
    if not intervals:
        return None
    middle = fmean((low + high) / 2 for low, high in intervals)
    half = math.sqrt(sum(((high - low) / 2) ** 2 for low, high in intervals)) / len(intervals)
    return middle - half, middle + half
