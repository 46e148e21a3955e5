"""The ridge Cox model against scikit-survival, and the likelihood-ratio test against a plain likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2
from sksurv.linear_model import CoxPHSurvivalAnalysis

from fedsteph.client.clinical.likelihood_ratio import likelihood_ratio
from fedsteph.client.clinical.ridge_cox import PENALTIES, RidgeCox
from fedsteph.common.errors import TrainingError


def patients(n: int = 90, seed: int = 0, effect: float = 0.8):
    rng = np.random.default_rng(seed)
    numbers = np.column_stack([rng.normal(size=n), 3 * rng.normal(size=n), rng.random(n) < 0.3]).astype(float)
    times = rng.exponential(900 * np.exp(-effect * numbers[:, 0]))
    return numbers, times, (rng.random(n) < 0.6).astype(int)


def test_coefficients_risks_and_survival_are_scikit_survivals():
    numbers, times, events = patients()
    found = RidgeCox.fit(numbers, times, events)
    assert found.penalty in PENALTIES
    spread = numbers.std(axis=0, ddof=1)
    outcomes = np.array([*zip(events > 0, times, strict=True)], dtype=[("e", bool), ("t", float)])
    model = CoxPHSurvivalAnalysis(alpha=found.penalty * len(times), tol=1e-12).fit(numbers / spread, outcomes)
    np.testing.assert_allclose(found.coefficients, model.coef_ / spread, rtol=1e-4)
    order = np.argsort(found.risk(numbers))
    assert found.risk(numbers) @ np.ones(len(times)) == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(order, np.argsort(model.predict(numbers / spread)))
    survival = found.survival(numbers)
    for i, curve in enumerate(model.predict_survival_function(numbers[:3] / spread)):
        np.testing.assert_allclose(survival[i, :2], curve([365.0, 730.0]), atol=2e-3)


def test_without_events_or_differences_there_is_no_model():
    numbers, times, events = patients(20)
    with pytest.raises(TrainingError, match="no training patient has an event"):
        RidgeCox.fit(numbers, times, np.zeros(20, dtype=int))
    with pytest.raises(TrainingError, match="no column tells training patients apart"):
        RidgeCox.fit(np.ones((20, 2)), times, events)


def test_a_level_whose_only_patient_has_the_first_event_does_no_harm():
    numbers, times, events = patients(60)
    first = int(np.argmin(times))
    events[first] = 1
    alone = np.column_stack([numbers, np.arange(60) == first])
    assert np.isfinite(RidgeCox.fit(alone, times, events).coefficients).all()
    assert likelihood_ratio(alone, numbers[:, 0] + 1, times, events) is not None


def log_likelihood(beta: np.ndarray, numbers: np.ndarray, times: np.ndarray, events: np.ndarray) -> float:
    """By a loop over the events; no two times are equal."""
    eta = numbers @ beta
    return sum(eta[i] - np.log(np.exp(eta[times >= times[i]]).sum()) for i in np.flatnonzero(events))


def test_the_likelihood_ratio_is_that_of_a_plain_likelihood():
    numbers, times, events = patients(70, seed=1, effect=0.4)
    best = [
        -minimize(
            lambda beta, c=columns: -log_likelihood(beta, numbers[:, c], times, events), np.zeros(len(columns))
        ).fun
        for columns in ([1, 2], [1, 2, 0])
    ]
    found = likelihood_ratio(numbers[:, 1:], numbers[:, 0], times, events)
    assert found.chi2 == pytest.approx(2 * (best[1] - best[0]), abs=0.01) and found.df == 1
    assert found.p == pytest.approx(chi2.sf(found.chi2, 1))
    assert likelihood_ratio(numbers, np.zeros(70), times, events).p == 1.0
