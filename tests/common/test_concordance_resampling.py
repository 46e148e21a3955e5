"""The resampling behind every interval, against loops over patients that were really drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.concordance import bootstrap_mean, interval_95, mean_over_folds, pairs, resampled


def cohort(seed: int, n: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Times with ties, and events."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 9, n).astype(float), rng.integers(0, 2, n)


def c_by_hand(risk, t, e) -> float:
    """Harrell's C, pair by pair; NaN where there is none."""
    concordant = comparable = 0.0
    for i in range(len(t)):
        for j in range(len(t)):
            if e[i] and (t[i] < t[j] or (t[i] == t[j] and not e[j])):
                comparable += 1
                concordant += 0.5 if risk[i] == risk[j] else risk[i] > risk[j]
    return concordant / comparable if comparable else math.nan


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 3))
def test_resampled_is_c_of_the_drawn_patients_for_every_model(seed, n, n_models):
    t, e = cohort(seed, n)
    risks = np.round(np.random.default_rng(seed + 1).normal(size=(n_models, n)), 1)
    found = resampled([pairs(risk, t, e) for risk in risks], resamples=7, rng=np.random.default_rng(seed))
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=7)
    assert found.shape == (n_models, 7)
    for m, risk in enumerate(risks):
        for r, draw in enumerate(draws):
            drawn = np.repeat(np.arange(n), draw)
            np.testing.assert_allclose(found[m, r], c_by_hand(risk[drawn], t[drawn], e[drawn]), atol=1e-6)


def test_resamples_without_a_comparable_pair_are_nan_for_all_models_alike():
    t, e = np.array([1.0, 2.0, 3.0]), np.array([1, 0, 0])
    models = [pairs(np.array(risk), t, e) for risk in ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0])]
    found = resampled(models, resamples=300, rng=np.random.default_rng(0))
    # (2/3)^3 of the draws lack the only event, and (1/3)^3 are nothing but it.
    assert np.isnan(found[0]).mean() == pytest.approx(8 / 27 + 1 / 27, abs=0.09)
    np.testing.assert_array_equal(np.isnan(found[0]), np.isnan(found[1]))
    defined = ~np.isnan(found[0])
    assert (found[0, defined] == 1).all() and (found[1, defined] == 0).all()


def test_a_generator_goes_on_from_fold_to_fold():
    t, e = cohort(3)
    one, rng = pairs(np.arange(15.0), t, e), np.random.default_rng(5)
    first, second = (resampled([one], resamples=20, rng=rng) for _ in range(2))
    assert not np.array_equal(first, second)


def test_spread_over_many_resamples_is_that_of_another_bootstrap():
    """Patients drawn by ``choice`` from another generator: the same distribution."""
    t, e = cohort(11, 60)
    risk = np.random.default_rng(12).normal(size=60) - 0.3 * t
    found = resampled([pairs(risk, t, e)], resamples=4000, rng=np.random.default_rng(0))[0]
    rng = np.random.default_rng(99)
    drawn = (rng.choice(60, 60) for _ in range(400))
    expected = np.array([c_by_hand(risk[d], t[d], e[d]) for d in drawn])
    assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert found.std() == pytest.approx(expected.std(), rel=0.15)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.lists(st.floats(0, 1) | st.just(math.nan), min_size=n, max_size=n), min_size=1, max_size=5
        )
    )
)
def test_mean_over_folds_leaves_undefined_ones_out(folds):
    found = mean_over_folds(np.array(folds))
    for value, column in zip(found, zip(*folds, strict=True), strict=True):
        defined = [v for v in column if not math.isnan(v)]
        if defined:
            assert value == pytest.approx(sum(defined) / len(defined))
        else:
            assert math.isnan(value)


def test_interval_by_hand():
    """Of 0, 1, .., 1000: linear between order statistics, so exactly 2.5 % and 97.5 % of the way."""
    values = np.random.default_rng(0).permutation(1001).astype(float)
    assert interval_95(values) == pytest.approx((25.0, 975.0))
    assert interval_95(np.array([2.0, math.nan, 4.0])) == pytest.approx((2.05, 3.95))
    assert interval_95(np.array([0.7])) == (0.7, 0.7)
    assert interval_95(np.array([math.nan, math.nan])) is None
    assert interval_95(np.array([])) is None


def test_the_older_interval_is_made_of_the_same_three_parts():
    folds = [pairs(np.random.default_rng(s).normal(size=15), *cohort(s)) for s in (1, 2)]
    rng = np.random.default_rng(4)
    values = np.stack([resampled([fold], resamples=50, rng=rng)[0] for fold in folds])
    expected = np.quantile(values.mean(axis=0), [0.025, 0.975])
    assert bootstrap_mean([folds], [1.0], resamples=50, seed=4) == pytest.approx(expected)
