"""How well scores separate members from non-members: AUC, TPR at 1% FPR, and their bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsteph.common.model.resampling import interval_95

MAX_FPR = 0.01


@dataclass(frozen=True)
class Separation:
    """Result of one attack, with 95% bootstrap intervals over patients (None: undefined in every resample)."""

    auc: float  # area under the ROC curve; 0.5 = guessing
    auc_interval_95: tuple[float, float] | None
    tpr: float  # share of members above a threshold that at most 1% of non-members exceed
    tpr_interval_95: tuple[float, float] | None


def separation(scores: np.ndarray, members: np.ndarray, *, resamples: int, seed: int) -> Separation:
    """AUC and TPR of scores, pooled over models.

    A patient is resampled with its scores under all models, so that their dependence widens the intervals.

    Args:
        scores: ``(n_models, n_patients)``; higher: more likely a member.
        members: ``(n_models, n_patients)`` bool, with at least one member and one non-member.
    """
    n = scores.shape[1]
    curve = _Curve(scores, members)
    auc, tpr = curve.measured(np.ones(n))
    rng = np.random.default_rng(seed)
    drawn = np.array([curve.measured(rng.multinomial(n, np.full(n, 1 / n))) for _ in range(resamples)])
    return Separation(auc, interval_95(drawn[:, 0]), tpr, interval_95(drawn[:, 1]))


class _Curve:
    """The ROC curve of given scores for any weights of the patients; scores are sorted only once."""

    def __init__(self, scores: np.ndarray, members: np.ndarray) -> None:
        order = np.argsort(-scores, axis=None, kind="stable")
        falling = scores.ravel()[order]
        self._patient = order % scores.shape[1]
        self._member = members.ravel()[order]
        self._last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # ends of groups of equal scores

    def measured(self, weights: np.ndarray) -> tuple[float, float]:
        """AUC (ties count 1/2) and TPR at 1% FPR; NaN without members or without non-members."""
        weight = weights[self._patient].astype(np.float64)
        found = np.append(0.0, np.cumsum(weight * self._member)[self._last])
        false = np.append(0.0, np.cumsum(weight * ~self._member)[self._last])
        if found[-1] == 0 or false[-1] == 0:
            return float("nan"), float("nan")
        tpr, fpr = found / found[-1], false / false[-1]
        auc = float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())
        return auc, float(tpr[fpr <= MAX_FPR].max())
