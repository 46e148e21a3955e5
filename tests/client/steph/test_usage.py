"""What each source was used for, against the routing of one bag at a time and plain loops over patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import CPU, m0_of, make_cohort, make_recipe, make_vectors

from fedsteph.client.steph.mixture import Mixture, coefficients
from fedsteph.client.steph.model import Routing, Steph
from fedsteph.client.steph.usage import Usage, usage, usage_of

SIZES = [3, 9, 1, 4, 4, 7, 2, 5, 6, 1, 8, 3]
EVERY_KIND = pytest.mark.parametrize(
    "settings",
    [
        ("steph.K=2",),
        ("steph.K=null",),
        ("steph.K=1", "steph.output=softplus"),
        ("steph.K=3", "steph.output=sigmoid", "steph.variant=fnn"),
        ("steph.K=2", "steph.variant=param"),
        ("steph.K=2", "steph.variant=fix", "steph.fixed_lam=0.25"),
        ("steph.K=2", "steph.start=local"),
    ],
    ids=" ".join,
)


def make_model(*settings: str, n_sources: int = 4) -> Steph:
    recipe = make_recipe(*settings)
    target, *sources = make_vectors(recipe, n_sources + 1).values()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Steph(Mixture.of(m0_of(recipe), target, sources), recipe.steph, dropout=0.5)


@EVERY_KIND
def test_it_is_the_routing_of_every_bag(settings):
    """0 and NaN where a source was not kept; a model in training is looked at without its dropout."""
    model, cohort = make_model(*settings).train(), make_cohort(SIZES)
    found = usage(model, cohort, CPU)
    assert found.w.shape == found.lam.shape == (12, 4)
    n_kept = 0
    for i in range(len(cohort)):
        with torch.no_grad():
            routing = model.eval().route(cohort.bag(i).unsqueeze(0))
        for k in range(4):
            w = float(routing.w[0, k])
            if k in routing.kept[0].tolist() and w > 0:
                assert found.w[i, k] == pytest.approx(w, abs=1e-6)
                assert found.lam[i, k] == pytest.approx(float(routing.lam[0, k]), abs=1e-6)
                n_kept += 1
            else:
                assert found.w[i, k] == 0 and np.isnan(found.lam[i, k])
    assert n_kept > 0
    K = 4 if model.config.K is None else model.config.K
    assert ((found.w > 0).sum(axis=1) <= K).all()


@EVERY_KIND
def test_its_coefficients_are_those_that_the_model_merges_with(settings):
    model, cohort = make_model(*settings).eval(), make_cohort(SIZES)
    found = usage(model, cohort, CPU)
    for i in range(len(cohort)):
        with torch.no_grad():
            routing = model.route(cohort.bag(i).unsqueeze(0))
        merged = coefficients(routing.w, routing.lam, routing.kept)[0].double().numpy()
        assert found.target_coefficient[i] == pytest.approx(merged[0], abs=1e-6)
        assert found.source_coefficients[i] == pytest.approx(merged[1:], abs=1e-6)


def test_a_learnable_weight_below_0_is_merged_and_so_is_told():
    """``weights: param`` has no ReLU: without a K, the merge subtracts such a source."""
    model = make_model("steph.weights=param", "steph.K=null").eval()
    with torch.no_grad():
        model.hypernetwork.w.copy_(torch.tensor([0.5, -0.4, 0.3, 0.2]))
    cohort = make_cohort([3, 4])
    with torch.no_grad():
        routing = model.route(cohort.bag(0).unsqueeze(0))
        merged = coefficients(routing.w, routing.lam, routing.kept)[0].double().numpy()
    found = usage(model, cohort, CPU)
    assert found.target_coefficient[0] == pytest.approx(merged[0], abs=1e-6)
    assert found.source_coefficients[0] == pytest.approx(merged[1:], abs=1e-6)


def test_coefficients_by_hand():
    nan = np.nan
    found = Usage(np.array([[0.5, 0.0, 2.0], [0.0, 0.0, 0.0]]), np.array([[0.2, nan, 0.75], [nan, nan, nan]]))
    assert found.target_coefficient == pytest.approx([0.5 * 0.2 + 2 * 0.75, 0])
    np.testing.assert_allclose(found.source_coefficients, [[0.5 * 0.8, 0, 2 * 0.25], [0, 0, 0]], atol=1e-12)


def test_a_kept_source_whose_weight_is_0_was_not_used():
    """ReLU ends there: K sources are kept, and fewer have a weight."""
    routing = Routing(
        torch.tensor([[0.3, 0.0, 0.0], [0.9, 0.1, 0.5]]),
        torch.tensor([[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]]),
        torch.tensor([[0, 1], [0, 2]]),
    )
    found = usage_of(routing)
    np.testing.assert_allclose(found.w, [[0.3, 0, 0], [0.9, 0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(found.lam, [[0.5, np.nan, np.nan], [0.1, np.nan, 0.3]], rtol=1e-6)


def test_shares_and_means_of_every_source_by_loops():
    """Of four sources, one is kept by everybody and one by nobody."""
    rng = np.random.default_rng(0)
    w = rng.random((15, 4)) * (rng.random((15, 4)) < [1, 0.5, 0, 0.2])
    lam = np.where(w > 0, rng.random((15, 4)), np.nan)
    names = ["b", "c", "d", "e"]
    found = Usage(w, lam).of_sources(names)
    assert list(found) == names
    for k, name in enumerate(names):
        users = [i for i in range(15) if w[i, k] > 0]
        assert found[name].kept == pytest.approx(len(users) / 15, abs=1e-6)
        assert found[name].w == pytest.approx(sum(w[i, k] for i in users) / max(len(users), 1), abs=1e-6)
        assert found[name].lam == pytest.approx(sum(lam[i, k] for i in users) / max(len(users), 1), abs=1e-6)
    assert (found["b"].kept, found["d"].kept) == (1.0, 0.0) and 0 < found["e"].kept < 1


def test_nobody_used_nothing():
    found = Usage(np.zeros((0, 2)), np.zeros((0, 2))).of_sources(["b", "c"])
    assert [(one.kept, one.w, one.lam) for one in found.values()] == [(0, 0, 0)] * 2
    assert usage(make_model(), make_cohort([2]).subset([]), CPU).w.shape == (0, 4)


def test_every_source_needs_a_name():
    with pytest.raises(ValueError, match="zip"):
        Usage(np.ones((2, 2)), np.ones((2, 2))).of_sources(["b"])
