"""Metrics at years against scikit-survival, calibration against lifelines, and resamples against repeated patients."""

from __future__ import annotations

import numpy as np
import pytest
from each_case import each
from lifelines import KaplanMeierFitter
from sksurv.metrics import brier_score, concordance_index_censored, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.util import Surv

from fedsteph.client.evaluation.at_years import Outcomes
from fedsteph.client.evaluation.side_by_side import side_by_side

YEARS = (1, 3, 5)


def drawn(seed: int, n: int = 60, step: float = 0) -> tuple[np.ndarray, ...]:
    """Times, events, risks with ties, and survival of six years; the last patient has an event, for scikit-survival."""
    rng = np.random.default_rng(seed)
    t = rng.exponential(1200, n) + 1
    t = np.ceil(t / step) * step if step else t
    e = rng.random(n) < 0.6
    t, e = np.append(t, 9000.0), np.append(e, True)
    survival = np.cumprod(1 - rng.uniform(0.02, 0.3, (n + 1, 6)), axis=1)
    survival[:8] = survival[8:16]
    return t, e.astype(int), -survival.sum(axis=1), survival


def once(statistics, n: int) -> dict[str, float]:
    return {name: float(found(np.ones((1, n)))[0]) for name, found in statistics.items()}


@each("step", [0, 30, 73])
@each("seed", [0, 1, 2])
def test_every_metric_equals_scikit_survival_and_lifelines(seed, step):
    t, e, risk, survival = drawn(seed, step=step)
    y = Surv.from_arrays(e > 0, t)
    expected = {
        "c_index": concordance_index_censored(e > 0, t, risk)[0],
        "uno_c": concordance_index_ipcw(y, y, risk)[0],
    }
    for year in YEARS:
        day, alive = 365.0 * year, survival[:, year - 1]
        curve = KaplanMeierFitter().fit(t, e)
        expected |= {
            f"uno_c_{year}y": concordance_index_ipcw(y, y, risk, tau=day)[0],
            f"auc_{year}y": cumulative_dynamic_auc(y, y, 1 - alive, [day])[0][0],
            f"brier_{year}y": brier_score(y, y, alive[:, None], [day])[1][0],
            f"calibration_gap_{year}y": float((1 - alive).mean() - (1 - curve.predict(day))),
        }
    assert once(Outcomes(t, e).statistics(risk, survival, YEARS), len(t)) == pytest.approx(expected, abs=1e-6)


def test_a_patient_drawn_twice_counts_twice():
    """Metrics without censoring weights are those of a cohort with repeated patients."""
    t, e, risk, survival = drawn(5, n=30, step=100)
    counts = np.random.default_rng(0).multinomial(31, np.full(31, 1 / 31))
    again = np.repeat(np.arange(31), counts)
    found = Outcomes(t, e).statistics(risk, survival, (1, 3))
    repeated = once(Outcomes(t[again], e[again]).statistics(risk[again], survival[again], (1, 3)), len(again))
    for name in ("c_index", "calibration_gap_1y", "calibration_gap_3y"):
        assert float(found[name](counts[None])[0]) == pytest.approx(repeated[name], abs=1e-6)


def test_everybody_dies_so_that_no_weight_differs():
    """Uno's C is Harrell's, and the Brier score a mean of squares."""
    t, _, risk, survival = drawn(6)
    found = once(Outcomes(t, np.ones(len(t))).statistics(risk, survival, (3,)), len(t))
    assert found["uno_c"] == pytest.approx(found["c_index"], abs=1e-9)
    assert found["brier_3y"] == pytest.approx(((survival[:, 2] - (t > 3 * 365)) ** 2).mean(), abs=1e-9)


def test_a_year_needs_an_event_before_it_and_a_patient_beyond_it():
    outcomes = Outcomes(np.array([100.0, 700.0, 1095.0]), np.array([0, 1, 1]))
    assert [outcomes.follows(year) for year in (1, 2, 3)] == [False, True, False]


def test_differences_are_paired_and_a_model_does_not_differ_from_itself():
    t, e, risk, survival = drawn(7)
    outcomes = Outcomes(t, e)
    good = outcomes.statistics(-t, survival, (3,))
    poor = outcomes.statistics(risk, survival, (3,))
    found = side_by_side({"a": poor, "b": good, "c": poor}, len(t), resamples=200, seed=0)
    assert found["a"].minus_first == {} and found["b"].metrics["c_index"].value == 1.0
    for name, gap in found["c"].minus_first.items():
        assert (gap.value, gap.interval_95) == (0.0, (0.0, 0.0)), name
    gap, own = found["b"].minus_first["c_index"], found["a"].metrics["c_index"]
    assert gap.value == pytest.approx(1 - own.value)
    assert gap.interval_95 == pytest.approx((1 - own.interval_95[1], 1 - own.interval_95[0]))
    for scores in found.values():
        for number in scores.metrics.values():
            assert number.interval_95[0] <= number.value <= number.interval_95[1]


def test_what_is_not_defined_is_no_number():
    t, e = np.array([100.0, 400.0, 500.0]), np.array([0, 0, 1])
    found = side_by_side({"a": Outcomes(t, e).statistics(-t, np.ones((3, 2)), ())}, 3, resamples=20, seed=0)
    assert found["a"].metrics["c_index"].value is None and found["a"].metrics["c_index"].cell == "undefined"
