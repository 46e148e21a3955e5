"""AUC and TPR, the likelihood ratio, the coins, and a bound on epsilon that must stay below the true one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from each_case import each
from scipy.stats import binom, binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from fedsteph.client.attack.coins import halves
from fedsteph.client.attack.likelihood import each_by_the_others, log_ratio, standardised
from fedsteph.client.attack.one_run import epsilon_bound, p_value
from fedsteph.client.attack.roc import separation
from fedsteph.common.errors import TooSmallError


@each("decimals", [12, 1, 0])
def test_auc_and_tpr_are_scikit_learn_s(decimals):
    rng = np.random.default_rng(decimals)
    members = rng.random((5, 300)) < 0.4
    scores = np.round(rng.normal(size=members.shape) + members, decimals)
    found = separation(scores, members, resamples=10, seed=0)
    assert found.auc == pytest.approx(roc_auc_score(members.ravel(), scores.ravel()), abs=1e-12)
    fpr, tpr, _ = roc_curve(members.ravel(), scores.ravel(), drop_intermediate=False)
    assert found.tpr == pytest.approx(tpr[fpr <= 0.01].max(), abs=1e-12)


def test_auc_and_tpr_by_hand():
    scores, members = np.array([[5.0, 4.0, 4.0, 1.0]]), np.array([[True, True, False, False]])
    found = separation(scores, members, resamples=10, seed=0)
    assert (found.auc, found.tpr) == ((1 + 1 + 0.5 + 1) / 4, 0.5)


def test_the_intervals_are_those_of_patients_drawn_with_all_their_models():
    rng = np.random.default_rng(1)
    members = rng.random((4, 60)) < 0.5
    scores = rng.normal(size=members.shape) + members
    found = separation(scores, members, resamples=50, seed=3)
    own, values = np.random.default_rng(3), []
    for _ in range(50):
        drawn = np.repeat(np.arange(60), own.multinomial(60, np.full(60, 1 / 60)))
        values.append(roc_auc_score(members[:, drawn].ravel(), scores[:, drawn].ravel()))
    assert found.auc_interval_95 == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
    assert found.auc_interval_95[0] < found.auc < found.auc_interval_95[1]


def test_scores_that_say_nothing():
    found = separation(np.zeros((1, 6)), np.array([[True, False] * 3]), resamples=20, seed=0)
    assert (found.auc, found.tpr, found.auc_interval_95) == (0.5, 0.0, (0.5, 0.5))


def test_every_patient_is_in_one_model_of_each_pair():
    events = np.array([1, 0, 0, 0] * 15)
    inside = halves(events, 18, seed=1)
    assert inside.shape == (18, 60) and (inside[0::2] ^ inside[1::2]).all()
    assert all(events[members].any() for members in inside) and np.array_equal(halves(events, 16, seed=1), inside[:16])
    assert not np.array_equal(halves(events, 16, seed=2), inside[:16]) and 0.4 < inside[0::2].mean() < 0.6
    assert len({members.sum() for members in inside}) > 2  # coins, and not halves of one size


def test_rare_events_are_on_both_sides_of_every_pair():
    events = np.array([1, 1] + [0] * 38)
    assert (halves(events, 40, seed=0)[:, :2].sum(axis=1) == 1).all()
    with pytest.raises(TooSmallError):
        halves(np.array([1] + [0] * 39), 16, seed=0)


def test_the_likelihood_ratio_of_gaussians_has_its_known_auc():
    """Each patient has a level of its own, far apart; membership adds 1 to a deviation of 1: AUC = Phi(1 / sqrt 2)."""
    rng, n, n_models = np.random.default_rng(0), 4000, 64
    inside = halves(np.ones(n), n_models, seed=0)
    level = 10 * rng.normal(size=n)
    scores = level + inside + rng.normal(size=inside.shape)
    members = rng.random(n) < 0.5
    attacked = level + members + rng.normal(size=n)
    best = norm.cdf(1 / math.sqrt(2))
    found = roc_auc_score(members, log_ratio(attacked, scores, inside))
    assert best - 0.03 < found < best + 0.015
    assert 0.49 < roc_auc_score(members, attacked) < 0.6  # what a threshold makes of it
    pooled = each_by_the_others(scores, inside)
    assert best - 0.03 < roc_auc_score(inside.ravel(), pooled.ravel()) < best + 0.005


def test_the_likelihood_ratio_by_hand():
    """Means 2 and 0; residuals of 1 on both sides of each: variance 4 / 2 = 2, for one patient its own as well."""
    references = np.array([[3.0], [1.0], [1.0], [-1.0]])
    inside = np.array([[True], [True], [False], [False]])
    for score, expected in ((2.0, (4 - 0) / 4), (0.0, -1.0), (1.0, 0.0)):
        assert log_ratio(np.array([score]), references, inside) == pytest.approx([expected])


def test_scores_without_membership_in_them_give_an_attack_nothing():
    """Nor does the complement, which is left out: with it the others would be 7 on one side and 8 on the other."""
    rng = np.random.default_rng(2)
    inside = halves(np.ones(3000), 16, seed=5)
    pooled = each_by_the_others(rng.normal(size=3000) + rng.normal(size=inside.shape), inside)
    assert 0.49 < roc_auc_score(inside.ravel(), pooled.ravel()) < 0.51


def test_a_models_scores_are_compared_on_one_scale():
    scores = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [7.0, 7.0, 7.0]])
    found = standardised(scores)
    np.testing.assert_allclose(found[0], found[1])
    np.testing.assert_allclose(found[0], [-math.sqrt(1.5), 0, math.sqrt(1.5)])
    assert not found[2].any()


@each(("right", "guesses"), [(40, 40), (31, 40), (60, 100), (3, 10)])
def test_without_delta_the_bound_is_clopper_and_pearson_s(right, guesses):
    lower = binomtest(right, guesses, alternative="greater").proportion_ci(0.95, "exact").low
    epsilon = math.log(lower / (1 - lower))
    assert p_value(right, guesses, 1000, epsilon, 0.0) == pytest.approx(0.05, rel=1e-6)
    assert p_value(right, guesses, 1000, epsilon - 0.01, 0.0) < 0.05


def test_what_delta_adds_to_the_p_value():
    right, guesses, n, epsilon, delta = 70, 90, 400, 0.5, 1e-3
    q = 1 / (1 + math.exp(-epsilon))
    reached = binom.sf(right - 1, guesses, q)
    worst = max((binom.sf(right - i - 1, guesses, q) - reached) / i for i in range(1, right + 1))
    assert p_value(right, guesses, n, epsilon, delta) == pytest.approx(reached + 2 * n * delta * worst, rel=1e-9)
    assert p_value(right, guesses, n, epsilon, delta) > 10 * p_value(right, guesses, n, epsilon, 0.0)


@each("epsilon", [0.0, 0.5, 1.0, 3.0])
def test_randomised_response_is_never_said_to_be_less_private_than_it_is(epsilon):
    """Each coin is told rightly with probability q = e^epsilon / (1 + e^epsilon); nothing could be told better."""
    rng, q, bounds = np.random.default_rng(7), 1 / (1 + math.exp(-epsilon)), []
    for _ in range(30):
        members = rng.random((16, 400)) < 0.5
        told = np.where(rng.random(members.shape) < q, members, ~members)
        bounds.append(epsilon_bound((told - 0.5) * (1 + rng.random(members.shape)), members, 0.0))
    assert sum(bound > epsilon for bound in bounds) <= 1
    assert np.median(bounds) > epsilon - 0.7  # it is no empty bound either


def test_models_that_all_say_the_same_are_not_sixteen_witnesses():
    """One draw of randomised response, repeated: joined p-values of independent models would be wrong here."""
    rng, epsilon, exceeded = np.random.default_rng(8), 0.5, 0
    q = 1 / (1 + math.exp(-epsilon))
    for _ in range(100):
        members = rng.random(100) < 0.5
        told = np.where(rng.random(100) < q, members, ~members)
        exceeded += epsilon_bound(np.tile(told - 0.5, (16, 1)), np.tile(members, (16, 1)), 0.0) > epsilon
    assert exceeded <= 8  # of 100 at 5%: 9 or more have a probability of 6%


def test_the_gaussian_mechanism_is_never_said_to_be_less_private_than_it_is():
    """Each coin plus noise: at delta the exact epsilon solves Phi(a) - e^eps Phi(b) = delta (Balle and Wang, 2018)."""
    noise, delta = 1.0, 1e-5
    low, high = 0.0, 20.0
    for _ in range(60):
        epsilon = (low + high) / 2
        spent = norm.cdf(0.5 / noise - epsilon * noise)
        spent -= math.exp(epsilon) * norm.cdf(-0.5 / noise - epsilon * noise)
        low, high = (epsilon, high) if spent > delta else (low, epsilon)
    rng, bounds = np.random.default_rng(9), []
    for _ in range(20):
        members = rng.random((16, 600)) < 0.5
        bounds.append(epsilon_bound(members + noise * rng.normal(size=members.shape) - 0.5, members, delta))
    assert max(bounds) < low and np.median(bounds) > 0.5


def test_guessing_bounds_nothing():
    rng = np.random.default_rng(10)
    assert epsilon_bound(rng.normal(size=(16, 300)), rng.random((16, 300)) < 0.5, 1e-5) == 0.0
