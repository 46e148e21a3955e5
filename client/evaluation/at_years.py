"""Metrics at the end of a year, as functions of how often each patient counts, so that the bootstrap is one product.

Censoring weights come from the evaluated patients themselves, and do not change from resample to resample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fedsteph.client.evaluation.censoring import Censoring, uno_weights
from fedsteph.common.model.concordance import TIED_RISK, pairs
from fedsteph.common.model.resampling import drawn_c_index
from fedsteph.common.model.survival import DAYS_PER_BIN

Statistic = Callable[[np.ndarray], np.ndarray]  # (n_draws, n), how often each patient counts -> (n_draws,)


class Outcomes:
    """The outcomes of evaluated patients: ``times (n,)`` in days, ``events (n,)``, 1 = event."""

    def __init__(self, times: np.ndarray, events: np.ndarray) -> None:
        self.times, self.events = times, events > 0
        self._censoring = Censoring(torch.tensor(times, dtype=torch.float64), torch.tensor(self.events))
        self._uno = uno_weights(times, times, events)

    def follows(self, year: int) -> bool:
        """Whether a patient is followed beyond the end of this year, and another had an event before."""
        day = year * DAYS_PER_BIN
        return bool((self.times > day).any() and self.events[self.times <= day].any())

    def statistics(self, risk: np.ndarray, survival: np.ndarray, years: Sequence[int]) -> dict[str, Statistic]:
        """All metrics of one model, by name.

        Args:
            risk: ``(n,)``, higher is worse.
            survival: ``(n, n_years)``, the probability of surviving each year.
            years: those to judge at, each of which :meth:`follows`.
        """
        ranked = pairs(risk, self.times, self.events)
        found: dict[str, Statistic] = {
            "c_index": lambda drawn: drawn_c_index(ranked, drawn),
            "uno_c": lambda drawn: drawn_c_index(ranked.weighted(self._uno), drawn),
        }
        for year in years:
            alive = survival[:, year - 1]
            found[f"uno_c_{year}y"] = self._uno_c(risk, year)
            found[f"auc_{year}y"] = self._auc(1.0 - alive, year)
            found[f"brier_{year}y"] = self._brier(alive, year)
            found[f"calibration_gap_{year}y"] = self._gap(1.0 - alive, year)
        return found

    def _uno_c(self, risk: np.ndarray, year: int) -> Statistic:
        """Uno's C of events before the end of the year."""
        weight = np.where(self.times < year * DAYS_PER_BIN, self._uno, 0.0)
        ranked = pairs(risk, self.times, self.events).weighted(weight)
        return lambda drawn: drawn_c_index(ranked, drawn)

    def _parts(self, year: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Who had an event within the year, who lives on, and each patient's weight, all ``(n,)``."""
        day = year * DAYS_PER_BIN
        until = torch.tensor(np.minimum(self.times, day), dtype=torch.float64)
        return (self.times <= day) & self.events, self.times > day, self._censoring.weight(until).numpy()

    def _auc(self, predicted: np.ndarray, year: int) -> Statistic:
        """Cumulative/dynamic AUC (Hung and Chiang 2010); ties count 1/2."""
        cases, controls, weight = self._parts(year)
        later = np.flatnonzero(controls)[np.argsort(predicted[controls], kind="stable")]
        below = np.searchsorted(predicted[later], predicted[cases] - TIED_RISK, side="left")
        up_to = np.searchsorted(predicted[later], predicted[cases] + TIED_RISK, side="right")

        def auc(drawn: np.ndarray) -> np.ndarray:
            counted = np.cumsum(np.pad(drawn[:, later], ((0, 0), (1, 0))), axis=1, dtype=np.float64)
            share = drawn[:, cases] * weight[cases]
            return _ratio((share * (counted[:, below] + counted[:, up_to])).sum(axis=1) / 2, share, counted[:, -1])

        return auc

    def _brier(self, alive: np.ndarray, year: int) -> Statistic:
        """Brier score at the end of the year (Graf et al. 1999)."""
        cases, controls, weight = self._parts(year)
        loss = weight * np.where(cases, alive**2, np.where(controls, (1.0 - alive) ** 2, 0.0))
        return lambda drawn: drawn @ loss / drawn.sum(axis=1)

    def _gap(self, predicted: np.ndarray, year: int) -> Statistic:
        """Mean predicted minus observed (Kaplan-Meier) probability of an event within the year."""
        order = np.argsort(self.times, kind="stable")
        times, first = np.unique(self.times[order], return_index=True)
        until = times <= year * DAYS_PER_BIN

        def gap(drawn: np.ndarray) -> np.ndarray:
            counted = drawn[:, order].astype(np.float64)
            here = np.add.reduceat(counted, first, axis=1)
            dying = np.add.reduceat(counted * self.events[order], first, axis=1)
            at_risk = np.cumsum(here[:, ::-1], axis=1)[:, ::-1]
            share = np.divide(dying, at_risk, out=np.zeros_like(dying), where=at_risk > 0)
            observed = 1.0 - np.prod(1.0 - share[:, until], axis=1)
            difference: np.ndarray = drawn @ predicted / drawn.sum(axis=1) - observed
            return difference

        return gap


def _ratio(found: np.ndarray, share: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """The share of concordant pairs; NaN where a resample has none."""
    n = share.sum(axis=1) * controls
    ratio: np.ndarray = np.divide(found, n, out=np.full(len(found), np.nan), where=n > 0)
    return ratio
