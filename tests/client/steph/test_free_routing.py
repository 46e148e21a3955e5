"""Bags are routed freely where the training patients need different sources, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import CPU, MemoryCohort, make_recipe, make_vectors

from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.steph.components import Components, mean_instance
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.steph.free_routing import p_value
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.model.initial_model import pinned_model

ROBUST = ("steph.start=local", "steph.K=null", "steph.gamma=0.0", "training.loss=cox")


def drawn(seed: int, n: int = 200, *, kinds: float, main: float = 0.0):
    """Places of bags of two kinds, four sources' moves, and residuals that follow another source in each kind.

    ``kinds``: how strongly the right source depends on the kind; ``main``: how strongly the place alone tells the risk.
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice([-1.0, 1.0], n)
    place = rng.normal(size=(n, 4)) + kind[:, None] * np.array([1.0, 0.5, 0.0, 0.0])
    moves = rng.normal(size=(n, 4))
    residuals = kinds * kind * (moves[:, 0] - moves[:, 1]) + main * place[:, 0] + rng.normal(size=n)
    return place, moves, residuals


def test_the_p_value_is_small_where_kinds_need_other_sources_and_uniform_elsewhere():
    assert all(p_value(*drawn(seed, kinds=0.5)) < 0.01 for seed in range(3))
    nothing = [p_value(*drawn(seed, 120, kinds=0.0)) for seed in range(40)]
    assert 0.3 < np.mean(nothing) < 0.7 and np.mean([p <= 0.05 for p in nothing]) <= 0.15


def test_what_the_place_alone_tells_is_no_reason_to_route():
    found = [p_value(*drawn(seed, 120, kinds=0.0, main=2.0)) for seed in range(20)]
    assert np.mean([p <= 0.05 for p in found]) <= 0.2


def test_where_nothing_can_be_told_the_p_value_is_1():
    place, moves, residuals = drawn(0, kinds=1.0)
    assert p_value(place[:10], moves[:10], residuals[:10]) == 1.0  # too few patients
    assert p_value(place, moves[:, :1], residuals) == 1.0  # one source
    assert p_value(place, moves, 0.0 * residuals) == 1.0  # no event
    assert p_value(0.0 * place, moves, residuals) == 1.0  # all bags alike


def test_components_are_standard_over_the_training_patients_and_those_of_a_plain_decomposition():
    means = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7.0) + 5
    means[:, 2] = 7.0  # a constant feature
    part = Components(6)
    assert not part(means.unsqueeze(1)).any(), "before they are fitted"
    part.fit(means)
    found = part(means.unsqueeze(1)).numpy()
    varying = means[:, [0, 1, 3, 4, 5]].double().numpy()
    values, vectors = np.linalg.eigh(np.corrcoef(varying.T))
    plain = (varying - varying.mean(0)) / varying.std(0) @ vectors[:, ::-1][:, :4] / np.sqrt(values[::-1][:4])
    assert np.abs(found) == pytest.approx(np.abs(plain), abs=1e-4)
    padded = torch.cat([means.unsqueeze(1), torch.full((50, 1, 6), 99.0)], dim=1)
    torch.testing.assert_close(mean_instance(padded, torch.tensor([[True, False]]).expand(50, 2)), means)
    part.fit(means[:, [2]].expand(50, 6))
    assert not part(means.unsqueeze(1)).any(), "of bags that are all alike"


def cohort(n: int = 90) -> MemoryCohort:
    rng = np.random.default_rng(5)
    people = [Patient(f"P{i:03d}", float(rng.exponential(900) + 1), int(i % 2), ()) for i in range(n)]
    bags = {one.id: torch.from_numpy(rng.normal(size=(5, 6)).astype(np.float32)) for one in people}
    return MemoryCohort(people, bags)


@pytest.fixture(scope="module")
def steph_of():
    """STEPH trained on bags of noise under a limit of the p-value."""
    part = cohort()

    def train(limit: str):
        recipe = make_recipe(*ROBUST, f"steph.routing_test={limit}")
        sources = list(make_vectors(recipe, 3).values())
        local = pinned_model(recipe.model)
        run = TrainingRun(CPU)
        return fit_steph(part, local, sources, recipe, gamma=0.0, label="fold 0", run=run), part

    return train


def test_up_to_the_limit_bags_choose_among_sources_and_above_it_all_is_as_without_a_test(steph_of, caplog):
    (without, part), (tested, _) = steph_of("null"), steph_of("0.001")
    bags = torch.stack([part.bag(i) for i in range(len(part))])
    assert not tested.hypernetwork.free
    for ours, theirs in zip(tested.route(bags).w, without.route(bags).w, strict=True):
        assert torch.equal(ours, theirs)
    caplog.set_level("INFO")
    free, _ = steph_of("1.0")
    assert free.hypernetwork.free and "need the same sources" in caplog.text
    w = free.route(bags).w
    assert w.std(dim=0).max() > 10 * tested.route(bags).w.std(dim=0).max()
    torch.testing.assert_close(w.sum(dim=1), torch.full((len(bags),), free.config.start_mass))
