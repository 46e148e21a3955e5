"""Harrell's concordance index and its bootstrap interval (Harrell et al., JAMA 1982)."""

from __future__ import annotations

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
    total = np.zeros(resamples)
    defined = np.zeros(resamples)
    for fold in folds:
        n = len(fold[0].comparable)
        draws = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float32)
        comparable = np.einsum("ri,ri->r", draws @ fold[0].comparable, draws)
        usable = comparable > 0
        value = sum(
            sign * np.einsum("ri,ri->r", draws @ one.score, draws) for sign, one in zip(signs, fold, strict=True)
        )
        total[usable] += value[usable] / comparable[usable]
        defined += usable
    if not defined.any():
        return None
    means = total[defined > 0] / defined[defined > 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
