"""The resampling behind every interval, against loops over patients that were really drawn."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.common.model import resampling
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled, resampled_folds


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
    assert interval_95(np.array([0.7])) == (0.7, 0.7) and interval_95(np.array([math.nan, math.nan])) is None
    assert interval_95(np.array([])) is None


def test_folds_are_resampled_one_after_the_other_for_all_methods_alike():
    risks = {s: np.random.default_rng(s).normal(size=(2, 15)) for s in (1, 2)}
    methods = [[pairs(risks[s][m], *cohort(s)) for s in (1, 2)] for m in range(2)]
    found, rng = resampled_folds(methods, resamples=50, seed=4), np.random.default_rng(4)
    expected = [resampled(list(fold), resamples=50, rng=rng) for fold in zip(*methods, strict=True)]
    np.testing.assert_array_equal(found, np.stack(expected, axis=1))
    # A method's own resamples do not depend on who else is resampled.
    np.testing.assert_array_equal(found[1:], resampled_folds(methods[1:], resamples=50, seed=4))


def test_resamples_are_the_same_however_many_are_held_at_once(monkeypatch):
    t, e = cohort(3, 40)
    models = [pairs(np.random.default_rng(s).normal(size=40), t, e) for s in (1, 2)]
    expected = resampled(models, resamples=33, rng=np.random.default_rng(0))
    for at_once in (1, 39, 40 * 7, 40 * 32):
        monkeypatch.setattr(resampling, "_DRAWS_PER_BLOCK", at_once)
        found = resampled(models, resamples=33, rng=np.random.default_rng(0))
        np.testing.assert_array_equal(found, expected)


def test_more_pairs_than_float32_can_count_are_counted_to_the_last():
    """7000 patients who all die in the order of their risks, but for the last who has the highest: 24 million pairs."""
    n = 7000
    t, risk = np.arange(n, dtype=float), -np.arange(n, dtype=float)
    risk[-1] = 1.0
    found = resampled([pairs(risk, t, np.ones(n))], resamples=2, rng=np.random.default_rng(1))[0]
    for value, draw in zip(found, np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), size=2), strict=True):
        # Of the pairs of distinct patients, those with the last one are discordant.
        comparable = (n * n - int((draw**2).sum())) // 2
        discordant = int(draw[-1]) * (n - int(draw[-1]))
        assert comparable > 2**24 and value == np.float32((comparable - discordant) / comparable)


def test_memory_grows_with_patients_and_not_with_pairs():
    """6000 patients who all have an event: one byte per pair would be 36 MB."""
    rng = np.random.default_rng(2)
    tracemalloc.start()
    try:
        models = [pairs(rng.normal(size=6000), rng.exponential(size=6000), np.ones(6000)) for _ in range(3)]
        assert all(one.n_comparable == 6000 * 5999 // 2 for one in models)
        resampled(models, resamples=10, rng=rng)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
