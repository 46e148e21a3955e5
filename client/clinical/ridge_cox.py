"""Cox's model with a ridge (lifelines), whose strength cross-validation chooses inside the training patients.

The penalty is that of lifelines: on numbers of unit spread, beside the mean log-likelihood of a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedsteph.common.errors import TrainingError
from fedsteph.common.model.survival import DAYS_PER_BIN

PENALTIES = (0.3, 0.1, 0.03, 0.01)  # from the strongest; of equally good ones, the first
_FOLDS = 3
_MOST_YEARS = 32  # as the slide's models have
_T, _E = "t", "e"


@dataclass(frozen=True)
class RidgeCox:
    """A fitted model. Its numbers are of the patients, so it stays at the site."""

    penalty: float
    coefficients: tuple[float, ...]  # log hazard ratios
    centre: tuple[float, ...]  # means of the training patients' numbers
    cumulative: tuple[float, ...]  # baseline hazard until the end of years 1, 2, ..., for a patient at the centre

    @classmethod
    def fit(cls, numbers: np.ndarray, times: np.ndarray, events: np.ndarray) -> RidgeCox:
        """Fit with the penalty that cross-validation chooses.

        Args:
            numbers: ``(n, p)``.
            times: ``(n,)`` days.
            events: ``(n,)``, 1 = event.

        Raises:
            TrainingError: as :func:`fitted_cox`.
        """
        penalty = _chosen(numbers, times, events)
        fitted = fitted_cox(numbers, times, events, penalty)
        last = min(max(1, int(times.max() // DAYS_PER_BIN)), _MOST_YEARS)
        ends = np.arange(1, last + 1) * DAYS_PER_BIN
        baseline = fitted.baseline_cumulative_hazard_
        steps = np.searchsorted(baseline.index.to_numpy(), ends, side="right")
        cumulative = np.concatenate([[0.0], baseline.to_numpy()[:, 0]])[steps]
        centre = numbers.mean(axis=0)
        coefficients = fitted.params_.reindex(map(str, range(numbers.shape[1])), fill_value=0.0)
        return cls(penalty, *(tuple(map(float, found)) for found in (coefficients, centre, cumulative)))

    def risk(self, numbers: np.ndarray) -> np.ndarray:
        """Log hazard relative to a patient at the centre: ``(n, p)`` numbers -> ``(n,)``; higher is worse."""
        found: np.ndarray = (numbers - np.array(self.centre)) @ np.array(self.coefficients)
        return found

    def survival(self, numbers: np.ndarray) -> np.ndarray:
        """The probability of surviving each year: ``(n, p)`` numbers -> ``(n, n_years)``."""
        found: np.ndarray = np.exp(-np.exp(self.risk(numbers))[:, None] * np.array(self.cumulative))
        return found


def _chosen(numbers: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """The penalty with the largest partial log-likelihood of held-out patients, summed over folds with equal events."""
    fold = np.empty(len(times), dtype=np.int64)
    rng = np.random.default_rng(0)
    for kind in (0, 1):
        alike = rng.permutation(np.flatnonzero((events > 0) == kind))
        fold[alike] = np.arange(len(alike)) % _FOLDS
    found = dict.fromkeys(PENALTIES, 0.0)
    for k in range(_FOLDS):
        inside, outside = fold != k, fold == k
        if not (events[inside].any() and events[outside].any() and np.ptp(numbers[inside], axis=0).any()):
            continue
        for penalty in PENALTIES:
            fitted = fitted_cox(numbers[inside], times[inside], events[inside], penalty)
            found[penalty] += partial_likelihood(fitted, numbers[outside], times[outside], events[outside])
    return max(found, key=lambda penalty: found[penalty])


def fitted_cox(numbers: np.ndarray, times: np.ndarray, events: np.ndarray, penalty: float) -> Any:
    """lifelines' fitted model, without numbers that are the same for all patients; arguments as :meth:`RidgeCox.fit`.

    Raises:
        TrainingError: no patient has an event, all have the same numbers, or the search does not end.
    """
    import warnings  # noqa: PLC0415

    from lifelines import CoxPHFitter  # noqa: PLC0415 (a second to import)
    from lifelines.exceptions import ConvergenceError, ConvergenceWarning  # noqa: PLC0415

    varies = [str(i) for i in np.flatnonzero(np.ptp(numbers, axis=0))]  # lifelines divides by each one's spread
    if not varies or not events.any():
        what = "no training patient has an event" if varies else "no column tells training patients apart"
        raise TrainingError(f"there is no Cox model of the clinical values: {what}", where="data.clinical")
    table = _table(numbers, times, events)[[*varies, _T, _E]]
    with warnings.catch_warnings():
        # It warns of numbers that hardly vary or that tell events apart, and both are what the ridge is for; and of
        # overflow, before it says that the search does not end.
        for category in (ConvergenceWarning, RuntimeWarning):
            warnings.simplefilter("ignore", category)
        try:
            return CoxPHFitter(penalizer=penalty, l1_ratio=0.0).fit(table, _T, _E)
        except ConvergenceError as error:
            what = "there is no Cox model of the clinical values: the search for its coefficients does not end"
            remedy = "Look for columns that say the same, or for levels of very few patients"
            raise TrainingError(what, where="data.clinical", remedy=remedy) from error


def partial_likelihood(fitted: Any, numbers: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """Log of the partial likelihood of patients under a fitted model, in nats, without the penalty."""
    table = _table(numbers, times, events)[[*fitted.params_.index, _T, _E]]
    return float(fitted.score(table, scoring_method="log_likelihood")) * len(times)


def _table(numbers: np.ndarray, times: np.ndarray, events: np.ndarray) -> Any:
    import pandas as pd  # noqa: PLC0415

    return pd.DataFrame(numbers).rename(columns=str).assign(**{_T: times, _E: events})
