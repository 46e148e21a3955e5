"""Harrell's C and its bootstrap against known answers and scikit-survival."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from each_case import each
from hypothesis import given
from hypothesis import strategies as st
from sksurv.exceptions import NoComparablePairException
from sksurv.metrics import concordance_index_censored

from fedsteph.common.model.concordance import Pairs, c_index, pairs
from fedsteph.common.model.resampling import interval_95, mean_over_folds, resampled_folds

ORACLE = np.load(Path(__file__).parents[2] / "oracles" / "cindex.npz")
NO_PAIR = pairs(np.array([1.0, 2.0]), np.array([5.0, 6.0]), np.array([0, 0]))


def cohort(seed: int, n: int = 25, signal: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risk, times and events, with ties in both."""
    rng = np.random.default_rng(seed)
    t = rng.integers(1, 12, n).astype(float)
    return np.round(rng.normal(size=n) - signal * t, 1), t, rng.integers(0, 2, n)


def bootstrap_mean(methods: list, signs: list[float], **kwargs: int) -> tuple[float, float] | None:
    """Interval of a weighted sum of the methods' means over folds."""
    return interval_95(mean_over_folds(np.tensordot(signs, resampled_folds(methods, **kwargs), axes=1)))


def test_known_answer() -> None:
    found = pairs(ORACLE["neg_score"], ORACLE["t"], ORACLE["e"])
    assert (found.n_comparable, found.concordant) == (696 + 800 + 4, 696 + 4 / 2)
    assert found.c_index == pytest.approx(0.46533333333333333, abs=1e-12)


def test_known_answer_with_many_ties() -> None:
    found = pairs(ORACLE["coarse_risk"], ORACLE["t"], ORACLE["e"])
    assert (found.n_comparable, found.concordant) == (592 + 639 + 269, 592 + 269 / 2)
    assert found.c_index == pytest.approx(0.48433333333333333, abs=1e-12)


@each(
    ("risk", "t", "e", "expected"),
    [
        ([2, 1], [1, 2], [1, 1], (1, 1.0)),
        ([1, 2], [1, 2], [1, 0], (1, 0.0)),
        ([1, 1 + 1e-9], [1, 2], [1, 1], (1, 0.5)),
        ([1, 1 + 1e-7], [1, 2], [1, 1], (1, 0.0)),
        ([2, 1], [3, 3], [1, 0], (1, 1.0)),  # at one time, the event comes before the censoring
        ([2, 1], [3, 3], [1, 1], (0, None)),  # two events at one time have no order
        ([2, 1], [1, 2], [0, 1], (0, None)),
        ([], [], [], (0, None)),
    ],
)
def test_pairs_by_hand(risk: list, t: list, e: list, expected: tuple) -> None:
    found = pairs(np.array(risk), np.array(t), np.array(e))
    assert (found.n_comparable, found.c_index) == expected


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:sksurv")
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.integers(-4, 4).map(lambda r: r / 4) | st.floats(-9, 9)),
        min_size=1,
        max_size=30,
    )
)
def test_agrees_with_scikit_survival(patients: list[tuple[int, bool, float]]) -> None:
    t, e, risk = (np.array(values) for values in zip(*patients, strict=True))
    try:
        expected, concordant, discordant, tied, _ = concordance_index_censored(e, t.astype(float), risk)
    except (NoComparablePairException, ValueError):  # ValueError: nobody has an event
        concordant = discordant = tied = 0
    if concordant + discordant + tied == 0:
        assert c_index(risk, t, e) is None
        return
    found = pairs(risk, t, e)
    assert found.n_comparable == concordant + discordant + tied and found.concordant == concordant + tied / 2
    assert c_index(risk, t, e) == pytest.approx(expected, abs=1e-12)


def matrices(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Comparable pairs and their scores, every patient against every other."""
    earlier = (t[:, None] < t[None, :]) | ((t[:, None] == t[None, :]) & (e[None, :] == 0))
    comparable = earlier & (e[:, None] == 1)
    difference = risk[:, None] - risk[None, :]
    return comparable, comparable * np.where(np.abs(difference) <= 1e-8, 0.5, difference > 0)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(-3, 3)), max_size=40),
    st.sampled_from([1.0, 1e-8, 0.5e-8, 0.3e-8, 1e300]),
    st.sampled_from([0.0, 1.0, 3e7]),
)
def test_counts_are_those_of_all_pairs_however_close_the_risks(patients: list, step: float, level: float) -> None:
    """Also where ties within 1e-8 are no equivalence, and where the difference of two risks is rounded."""
    t, e, risk = (np.array([patient[k] for patient in patients], dtype=float) for k in range(3))
    risk = level + step * risk
    found, (comparable, score) = pairs(risk, t, e), matrices(risk, t, e)
    assert (found.n_comparable, found.concordant) == (comparable.sum(), score.sum())
    np.testing.assert_array_equal(found.comparable, comparable.sum(axis=1)[found.order[found.events]])
    np.testing.assert_array_equal(found.doubled / 2, score.sum(axis=1)[found.order[found.events]])


def test_counts_over_many_blocks_of_events() -> None:
    """1500 patients, ties in risk and time; the pairs themselves are never all in memory."""
    rng = np.random.default_rng(10)
    risk, t, e = np.round(rng.normal(size=1500), 2), rng.integers(0, 400, 1500), rng.integers(0, 2, 1500)
    found, (comparable, score) = pairs(risk, t, e), matrices(risk, t, e)
    assert (found.n_comparable, found.concordant) == (comparable.sum(), score.sum())
    blocks = list(found.blocks())
    assert len(blocks) > 2 and max(block.size for *_, block in blocks) < 300 * 1500
    whole = np.zeros((1500, 1500))
    for events, place, block in blocks:
        whole[np.ix_(found.order[found.events[events]], found.order[place:])] = block / 2
    np.testing.assert_array_equal(whole, score)


@each("bad", [np.nan, np.inf, -np.inf])
def test_a_risk_without_order_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        pairs(np.array([0.0, bad]), np.array([1.0, 2.0]), np.array([1, 1]))


def test_bootstrap_against_scikit_survival_on_the_same_draws() -> None:
    folds = [cohort(1), cohort(2, n=18, signal=0.2)]
    found = bootstrap_mean([[pairs(*fold) for fold in folds]], [1.0], resamples=60, seed=7)
    rng = np.random.default_rng(7)
    values = np.zeros((len(folds), 60))
    for i, (risk, t, e) in enumerate(folds):
        draws = rng.multinomial(len(t), np.full(len(t), 1 / len(t)), size=60)
        for j, draw in enumerate(draws):
            drawn = np.repeat(np.arange(len(t)), draw)
            values[i, j] = concordance_index_censored(e[drawn] > 0, t[drawn], risk[drawn])[0]
    np.testing.assert_allclose(found, np.quantile(values.mean(axis=0), [0.025, 0.975]), atol=1e-6)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    folds = [pairs(*cohort(3)), pairs(*cohort(4))]
    first, again, other = (bootstrap_mean([folds], [1.0], resamples=50, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_bootstrap_holds_the_point_estimate_of_a_clear_case() -> None:
    fold = pairs(*cohort(5, n=150, signal=0.3))
    low, high = bootstrap_mean([[fold]], [1.0], resamples=200, seed=0)
    assert 0.6 < low < fold.c_index < high < 1


def test_paired_difference() -> None:
    """Of a method with itself exactly 0; of a good and its inverted risks clearly above it."""
    risk, t, e = cohort(6, n=100, signal=0.3)
    good, inverted = pairs(risk, t, e), pairs(-risk, t, e)
    assert bootstrap_mean([[good], [good]], [1.0, -1.0], resamples=50, seed=0) == (0.0, 0.0)
    low, high = bootstrap_mean([[good], [inverted]], [1.0, -1.0], resamples=100, seed=0)
    assert 0.2 < low < high < 1


def test_folds_without_pairs_are_left_out() -> None:
    fold = pairs(*cohort(7))
    alone = bootstrap_mean([[fold]], [1.0], resamples=50, seed=0)
    assert bootstrap_mean([[NO_PAIR, fold, NO_PAIR]], [1.0], resamples=50, seed=0) == alone
    assert bootstrap_mean([[NO_PAIR]], [1.0], resamples=50, seed=0) is None


@each("seed", range(8))
def test_a_lone_pair_may_be_drawn_by_no_resample(seed: int) -> None:
    lone = pairs(np.array([2.0, 1.0]), np.array([1.0, 2.0]), np.array([1, 1]))
    drawn = min(np.random.default_rng(seed).multinomial(2, [0.5, 0.5]))
    expected = (1.0, 1.0) if drawn else None
    assert bootstrap_mean([[lone]], [1.0], resamples=1, seed=seed) == expected


def test_methods_over_different_folds_are_refused() -> None:
    folds: list[Pairs] = [pairs(*cohort(8)), pairs(*cohort(9))]
    with pytest.raises(ValueError, match="zip"):
        bootstrap_mean([folds, folds[:1]], [1.0, -1.0], resamples=10, seed=0)
