"""Cox's loss against a double loop, its gradient by differences, and the baseline against another maximiser.

The double loop computes in float64, torchsurv behind the loss in float32: that is what the tolerances are for.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fedsteph.client.training import cox
from fedsteph.client.training.cox import cox_loss, fitted_baseline, log_odds


def plain_cox(score: np.ndarray, t: np.ndarray, e: np.ndarray) -> float:
    """Efron's partial likelihood, term by term: mean over the events of ``log(risk set - l/m tied) - score``."""
    total, n_events = 0.0, 0
    for time in sorted(set(t[e > 0])):
        tied = [i for i in range(len(t)) if t[i] == time and e[i] > 0]
        risk_set = math.fsum(math.exp(score[j]) for j in range(len(t)) if t[j] >= time)
        dying = math.fsum(math.exp(score[i]) for i in tied)
        for rank, i in enumerate(tied):
            total += math.log(risk_set - rank / len(tied) * dying) - score[i]
            n_events += 1
    return total / n_events


def loss_of(score, t, e) -> torch.Tensor:
    return cox_loss(torch.as_tensor(score), torch.as_tensor(t), torch.as_tensor(e))


COHORTS = {
    "no ties": ([5.0, 3.0, 9.0, 1.0, 7.0], [1, 0, 1, 1, 0]),
    "tied events": ([3.0, 3.0, 3.0, 8.0, 1.0, 8.0], [1, 1, 1, 1, 0, 1]),
    "an event tied with a censoring": ([4.0, 4.0, 4.0, 2.0], [1, 0, 1, 1]),
    "all at once": ([2.0, 2.0, 2.0, 2.0], [1, 1, 1, 1]),
    "one event": ([2.0, 5.0, 9.0], [0, 1, 0]),
    "one event, the first": ([2.0, 5.0, 9.0], [1, 0, 0]),
    "one event, the last": ([2.0, 5.0, 9.0], [0, 0, 1]),
    "two bags": ([2.0, 1.0], [1, 1]),
    "time zero": ([0.0, 0.0, 1.0], [1, 1, 0]),
}


@each(("t", "e"), COHORTS.values())
@each("scale", [0.3, 5.0])
def test_loss_equals_the_double_loop(t, e, scale):
    t, e = np.array(t), np.array(e)
    for seed in range(3):
        score = np.random.default_rng(seed).normal(scale=scale, size=len(t))
        assert float(loss_of(score, t, e)) == pytest.approx(plain_cox(score, t, e), rel=1e-5, abs=1e-6)


def test_three_bags_by_hand():
    """At risk 3, then 2, then 1 bag, all scores 0: ``(log 3 + log 2 + log 1) / 3``."""
    found = loss_of(np.zeros(3), np.array([10.0, 20.0, 30.0]), np.array([1, 1, 1]))
    assert float(found) == pytest.approx(math.log(6) / 3, rel=1e-6)


def test_a_higher_score_for_who_dies_first_is_better():
    t, e = np.array([10.0, 20.0]), np.array([1, 1])
    assert float(loss_of([1.0, -1.0], t, e)) < float(loss_of([0.0, 0.0], t, e)) < float(loss_of([-1.0, 1.0], t, e))


@each(("t", "e"), [([3.0, 1.0, 2.0], [0, 0, 0]), ([5.0], [1]), ([5.0], [0])])
def test_nothing_to_order_is_no_loss_and_no_gradient(t, e):
    score = torch.randn(len(t), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = cox_loss(score, torch.tensor(t, dtype=torch.float64), torch.tensor(e))
    loss.backward()
    assert float(loss.detach()) == 0.0 and torch.equal(score.grad, torch.zeros(len(t)))


@each(("t", "e"), COHORTS.values())
def test_gradient_by_finite_differences(t, e):
    t, e = np.array(t), np.array(e)
    score = np.random.default_rng(3).normal(size=len(t))
    leaf = torch.from_numpy(score).clone().requires_grad_()
    loss_of(leaf, t, e).backward()
    for i in range(len(t)):
        step = np.zeros(len(t))
        step[i] = 1e-5
        slope = (plain_cox(score + step, t, e) - plain_cox(score - step, t, e)) / 2e-5
        assert float(leaf.grad[i]) == pytest.approx(slope, abs=1e-6)


def test_training_s_own_types():
    """float32 scores, float64 days, int64 events, as a batch has them; its loss is of the scores' type."""
    t, e = np.array([400.5, 400.5, 12.0, 3000.25]), np.array([1, 1, 0, 1])
    score = torch.tensor([0.2, -1.0, 0.5, 0.1]).requires_grad_()
    loss = cox_loss(score, torch.from_numpy(t), torch.from_numpy(e))
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(plain_cox(score.detach().double().numpy(), t, e), rel=1e-6)


def test_extreme_scores_stay_finite():
    score = torch.tensor([15.9, -15.9, 15.9, -15.9]).requires_grad_()
    loss = loss_of(score, np.array([9.0, 1.0, 9.0, 1.0]), np.array([1, 1, 1, 1]))
    loss.backward()
    assert math.isfinite(float(loss.detach())) and bool(torch.isfinite(score.grad).all())


@st.composite
def cohorts(draw):
    n = draw(st.integers(2, 9))
    t = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))  # so few that ties are common
    e = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(any))
    score = draw(st.lists(st.floats(-4, 4), min_size=n, max_size=n))
    return np.array(score), np.array(t, dtype=np.float64), np.array(e)


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.floats(-20, 20))
def test_a_shift_of_all_scores_changes_nothing(cohort, shift):
    score, t, e = cohort
    assert float(loss_of(score + shift, t, e)) == pytest.approx(float(loss_of(score, t, e)), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.randoms(use_true_random=False))
def test_the_order_of_the_bags_changes_nothing(cohort, random):
    score, t, e = cohort
    order = list(range(len(t)))
    random.shuffle(order)
    assert float(loss_of(score[order], t[order], e[order])) == pytest.approx(plain_cox(score, t, e), abs=1e-5)
    leaves = [torch.from_numpy(score).clone().requires_grad_() for _ in range(2)]
    loss_of(leaves[0], t, e).backward()
    cox_loss(leaves[1][order], torch.from_numpy(t[order]), torch.from_numpy(e[order])).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=1e-5)


def test_log_odds_by_hand():
    """``logit(0.5) = 0``, ``logit(0.8) = log 4``; a hazard of 0 or 1 counts as 1e-7 from it."""
    hazards = torch.tensor([[0.5, 0.5], [0.8, 0.5], [0.2, 0.8], [0.0, 0.5], [1.0, 1.0]], dtype=torch.float64)
    far = math.log(1e-7 / (1 - 1e-7))
    expected = torch.tensor([0.0, math.log(4) / 2, 0.0, far / 2, -far], dtype=torch.float64)
    torch.testing.assert_close(log_odds(hazards), expected, rtol=0, atol=1e-9)


def test_log_odds_of_one_risk_and_a_baseline_are_the_risk_and_the_baseline_s_mean():
    score, baseline = torch.tensor([-2.0, 0.0, 1.5]), torch.tensor([-3.0, -1.0, 0.5, 2.5])
    found = log_odds(torch.sigmoid(score[:, None] + baseline))
    torch.testing.assert_close(found, score + baseline.mean(), rtol=0, atol=1e-5)


def plain_likelihood(b: np.ndarray, score: np.ndarray, bins: np.ndarray, e: np.ndarray) -> float:
    """Penalised log-likelihood, patient by patient and bin by bin: a patient lives through every bin before the
    last, and in it dies or does not; ten more of the mean score live in each bin under the cohort's mean hazard."""
    total, exposed = 0.0, sum(int(y) + 1 for y in bins)
    mean = max(float(e.sum()), 0.5) / exposed
    for i in range(len(score)):
        for j in range(int(bins[i]) + 1):
            z = b[j] + score[i]
            dies = j == bins[i] and e[i] > 0
            total -= np.logaddexp(0.0, -z if dies else z)
    for z in b + score.mean():
        total -= 10.0 * (mean * np.logaddexp(0.0, -z) + (1 - mean) * np.logaddexp(0.0, z))
    return total


BASELINES = {
    "ordinary": (30, 4, 1.0, 0.5),
    "wide scores": (25, 4, 6.0, 0.5),
    "no event": (12, 3, 1.0, 0.0),
    "few years of follow-up": (20, 2, 1.0, 0.7),
    "one patient": (1, 3, 1.0, 1.0),
}


def drawn(n: int, years: int, scale: float, share: float, seed: int):
    rng = np.random.default_rng(seed)
    return rng.normal(loc=2.0, scale=scale, size=n), rng.integers(0, years, n), (rng.random(n) < share).astype(int)


@each(("n", "years", "scale", "share"), BASELINES.values())
def test_the_baseline_maximises_the_penalised_likelihood(n, years, scale, share):
    """With two bins beyond the last year, in which nobody is at risk; against BFGS from elsewhere."""
    for seed in range(2):
        score, bins, e = drawn(n, years, scale, share, seed)
        if n == 1:
            bins[:] = 1  # one patient who dies in the first bin alone has a mean hazard of 1
        found = fitted_baseline(torch.from_numpy(score), bins, e, n_bins=years + 2).numpy()
        assert found.dtype == np.float64 and np.isfinite(found).all()
        best = minimize(
            lambda b, cohort: -plain_likelihood(b, *cohort), np.full(years + 2, -3.0), ((score, bins, e),), tol=1e-9
        )
        assert plain_likelihood(found, score, bins, e) >= -best.fun - 1e-9
        np.testing.assert_allclose(found, best.x, atol=2e-4)
        for j in range(years + 2):  # and it is a maximum: every step aside is worse
            for step in (-1e-3, 1e-3):
                aside = found.copy()
                aside[j] += step
                assert plain_likelihood(aside, score, bins, e) < plain_likelihood(found, score, bins, e)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 8.0), st.integers(2, 40), st.floats(0.0, 1.0))
def test_observed_and_expected_events_agree_in_every_bin(seed, scale, n, share):
    """The likelihood's slope is zero: ``d_j + 10 mean = sum at risk h_ij + 10 h_j(mean score)``."""
    score, bins, e = drawn(n, 5, scale, share, seed)
    if e.sum() >= (bins + 1).sum():
        return  # every patient dies in the first bin
    b = fitted_baseline(torch.from_numpy(score), bins, e, n_bins=6).numpy()
    mean = max(e.sum(), 0.5) / (bins + 1).sum()
    hazards = 1 / (1 + np.exp(-(b + score[:, None])))
    at_risk = bins[:, None] >= np.arange(6)
    observed = np.bincount(bins[e > 0], minlength=6) + 10 * mean
    expected = (at_risk * hazards).sum(axis=0) + 10 / (1 + np.exp(-(b + score.mean())))
    np.testing.assert_allclose(expected, observed, rtol=0, atol=1e-6)


def test_equal_scores_give_the_empirical_hazard():
    """Events in bins 0, 1, 1, censored in 0 and 2: the smoothed hazards of ``empirical_hazard``, by hand."""
    bins, e = np.array([0, 0, 1, 1, 2]), np.array([1, 0, 1, 1, 0])
    b = fitted_baseline(torch.full((5,), 0.7), bins, e, n_bins=4)
    mean = 3 / 9
    expected = torch.tensor([(1 + 10 * mean) / 15, (2 + 10 * mean) / 13, 10 * mean / 11, mean], dtype=torch.float64)
    torch.testing.assert_close(torch.sigmoid(b + torch.tensor(0.7).double()), expected, rtol=0, atol=1e-9)


def test_a_shift_of_all_scores_is_taken_back_by_the_baseline():
    score, bins, e = drawn(20, 4, 1.0, 0.6, seed=5)
    plain, shifted = (fitted_baseline(torch.from_numpy(score + by), bins, e, n_bins=5) for by in (0.0, 7.5))
    torch.testing.assert_close(shifted + 7.5, plain, rtol=0, atol=1e-7)


@each("n", [1, 12])
def test_a_cohort_that_dies_in_its_first_year_has_a_finite_baseline(n):
    """The mean hazard is 1, whose logit is not finite."""
    b = fitted_baseline(torch.linspace(-1, 1, n), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64), n_bins=4)
    assert bool(torch.isfinite(b).all())


def test_the_library_s_metrics_are_not_loaded_and_can_be_later(monkeypatch):
    """Every process that trains would wait for them for two seconds."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchsurv"]:
        monkeypatch.delitem(sys.modules, name)
    cox._partial_likelihood.cache_clear()
    t, e = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 0])
    assert float(cox_loss(torch.zeros(3), t, e)) == pytest.approx((math.log(3) + math.log(2)) / 2)
    assert "torchsurv.metrics" not in sys.modules and "torchsurv" not in sys.modules
    from torchsurv.metrics.cindex import ConcordanceIndex  # noqa: PLC0415 (the whole package, afterwards)

    assert ConcordanceIndex.__module__ == "torchsurv.metrics.cindex"
