"""Stacks of bags: every bag once, within the budgets, and the same numbers as bag by bag."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import CPU, SMALL, make_cohort, make_recipe, make_vectors
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsteph.client.training.batch
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import batches, predict_hazards, risks
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.model.initial_model import untrained_model

SIZES = [4, 1, 9, 3, 3, 7, 20, 2, 5, 5, 5, 40, 6]


def model_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "abmil":
        return untrained_model(SMALL, 0, dropout=0.9)
    recipe = make_recipe("model.attention=5", "model.n_bins=4")
    vectors = list(make_vectors(recipe, 6, scale=0.5).values())
    return Steph(Mixture.of(untrained_model(SMALL, 42), vectors[0], vectors[1:]), StephConfig(K=2), dropout=0.9)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    budget=st.integers(1, 120),
    most=st.integers(1, 6),
    padding=st.floats(1, 3),
)
def test_stacks_respect_every_budget(sizes, budget, most, padding):
    cohort = make_cohort(sizes, width=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fedsteph.client.training.batch, "_INSTANCES_PER_PASS", budget)
        patch.setattr(fedsteph.client.training.batch, "_BAGS_PER_PASS", most)
        patch.setattr(fedsteph.client.training.batch, "_PADDING", padding)
        stacks = list(batches(cohort, range(len(sizes)), 4, CPU))
    assert sorted(i for group, _ in stacks for i in group) == list(range(len(sizes)))
    for group, batch in stacks:
        n_bags, longest, _ = batch.bags.shape
        assert n_bags == len(group) <= most and longest == max(sizes[i] for i in group)
        assert n_bags == 1 or n_bags * longest <= budget
        assert n_bags * longest <= padding * sum(sizes[i] for i in group) + 1e-9


def test_bags_of_one_size_share_a_stack():
    assert [len(group) for group, _ in batches(make_cohort([5] * 40), range(40), 4, CPU)] == [16, 16, 8]


def test_what_a_stack_holds():
    cohort = make_cohort(SIZES)
    for group, batch in batches(cohort, [2, 0, 6, 5, 3], 3, CPU):
        assert batch.ids == tuple(cohort.patients[i].id for i in group) and batch.times.dtype == torch.float64
        assert batch.times.tolist() == [cohort.patients[i].t for i in group]
        assert batch.events.tolist() == [cohort.patients[i].e for i in group]
        assert batch.bins.tolist() == [min(int(cohort.patients[i].t // 365), 2) for i in group]
        assert (batch.mask is None) == (len({SIZES[i] for i in group}) == 1)
        for row, i in enumerate(group):
            bag, size = batch.bags[row], SIZES[i]
            assert torch.equal(bag[:size], cohort.bag(i)) and not bag[size:].any()
            if batch.mask is not None:
                assert batch.mask[row].tolist() == [True] * size + [False] * (len(bag) - size)


@pytest.mark.parametrize("kind", ["abmil", "steph"])
def test_predictions_do_not_depend_on_the_stacking(monkeypatch, kind):
    cohort, model = make_cohort(SIZES), model_of(kind).train()
    stacked = predict_hazards(model, cohort, CPU)
    alone = [model(cohort.bag(i).unsqueeze(0))[0].double().detach().numpy() for i in range(len(SIZES))]
    np.testing.assert_allclose(stacked, alone, rtol=0, atol=1e-6)
    assert not model.training
    monkeypatch.setattr(fedsteph.client.training.batch, "_PADDING", 100.0)
    padded = predict_hazards(model, cohort, CPU)
    np.testing.assert_allclose(padded, alone, rtol=0, atol=1e-6)
    by_hand = [-sum(np.prod([1 - h for h in row[: j + 1]]) for j in range(len(row))) for row in alone]
    np.testing.assert_allclose(risks(model, cohort, CPU), by_hand, rtol=0, atol=1e-6)
