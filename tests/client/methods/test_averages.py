"""Merging without training, entry by entry, and task arithmetic's coefficient by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import m0_of
from method_builders import (
    dead_vector,
    encoder_of,
    make_task,
    numbers,
    own_of,
    plain_hazards,
    plain_pairs,
    plain_risk,
    plus,
    telling_vector,
    with_vectors,
)

from fedsteph.client.methods.averaging import half_average, model_average, start_average, task_arithmetic
from fedsteph.common.host.progress import silent

GRID = [0.7, 0.05, 0.2, 1.0]  # not in order


def assert_encoder(model, expected):
    found = numbers(model.encoder_state())
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)


def assert_untrained(trained, task):
    """The head is the local model's bit for bit, and nothing was learned."""
    assert torch.equal(trained.model.head.weight, task.local.head.weight)
    assert torch.equal(trained.model.head.bias, task.local.head.bias)
    assert not torch.equal(trained.model.head.weight, m0_of(task.recipe).head.weight) and trained.learnable == 0
    assert not trained.model.training


@pytest.mark.parametrize("n_sources", [1, 4])
def test_model_average(tmp_path, n_sources):
    task = make_task(tmp_path, "training.lr=0.01", n_sources=n_sources)
    vectors = [own_of(task), *(numbers(vector.tensors) for vector in task.sources)]
    trained = model_average(task, silent)
    assert_encoder(trained.model, plus(encoder_of(task), [1 / (n_sources + 1)] * (n_sources + 1), vectors))
    assert_untrained(trained, task)


def test_half_average(tmp_path):
    task = make_task(tmp_path, "training.lr=0.01", n_sources=4)
    vectors = [own_of(task), *(numbers(vector.tensors) for vector in task.sources)]
    trained = half_average(task, silent)
    assert_encoder(trained.model, plus(encoder_of(task), [0.5] + [0.125] * 4, vectors))
    assert_untrained(trained, task)


def test_start_average_is_where_steph_begins(tmp_path):
    task = make_task(tmp_path, "training.lr=0.01", "steph.start_lam=0.4", "steph.start_mass=1.5", n_sources=4)
    vectors = [own_of(task), *(numbers(vector.tensors) for vector in task.sources)]
    trained = start_average(task, silent)
    assert_encoder(trained.model, plus(encoder_of(task), [0.6] + [0.225] * 4, vectors))
    assert_untrained(trained, task)


def plain_concordant(task, c):
    """Concordant pairs over all inner validation parts, under each inner fold's own local model and head."""
    theta_0, concordant = encoder_of(task), 0.0
    for part in task.inner:
        local = numbers(part.local.encoder_state())
        own = {name: local[name] - theta_0[name] for name in theta_0}
        theta = plus(theta_0, [c] * (1 + len(task.sources)), [own, *(numbers(v.tensors) for v in task.sources)])
        cohort = part.validation
        hazards = [plain_hazards(theta, part.local.head, cohort.bag(i).numpy()) for i in range(len(cohort))]
        concordant += plain_pairs(cohort.times, cohort.events, np.array([plain_risk(h) for h in hazards]))[0]
    return concordant


def arithmetic_task(folder, seed=0, n_sources=2):
    settings = ("training.lr=0.05", "training.epochs=4", f"training.seed={seed}", f"comparators.coefficients={GRID}")
    return make_task(folder, *settings, n_sources=n_sources, scale=0.5, patients=50, event_share=0.8)


def test_task_arithmetic_s_coefficient_is_the_one_of_brute_force(tmp_path):
    chosen = set()
    for seed in range(4):
        task = arithmetic_task(tmp_path, seed)
        concordant = {c: plain_concordant(task, c) for c in GRID}
        best = max(sorted(GRID), key=lambda c: concordant[c])  # the first, so the smallest, of equals
        assert len(set(concordant.values())) > 1
        trained = task_arithmetic(task, silent)
        vectors = [own_of(task), *(numbers(vector.tensors) for vector in task.sources)]
        assert_encoder(trained.model, plus(encoder_of(task), [best] * 3, vectors))
        assert_untrained(trained, task)
        chosen.add(best)
    assert len(chosen) > 1  # else this test could not tell a choice from a constant


def test_among_coefficients_that_do_equally_well_the_smallest_is_taken(tmp_path):
    """Dead vectors: every patient has the same risk under every coefficient."""
    task = arithmetic_task(tmp_path)
    task = with_vectors(task, [dead_vector(task)])
    assert {plain_concordant(task, c) for c in GRID} == {plain_concordant(task, 1.0)}
    vectors = [own_of(task), numbers(task.sources[0].tensors)]
    assert_encoder(task_arithmetic(task, silent).model, plus(encoder_of(task), [0.05] * 2, vectors))


def test_where_there_is_nothing_to_choose_by_the_smallest_coefficient_is_taken(tmp_path):
    """A training part of one patient has no inner folds."""
    task = make_task(tmp_path, f"comparators.coefficients={GRID}", n_sources=1, patients=3)
    task = with_vectors(task, [telling_vector(task)])
    assert task.inner == []
    vectors = [own_of(task), numbers(task.sources[0].tensors)]
    assert_encoder(task_arithmetic(task, silent).model, plus(encoder_of(task), [0.05] * 2, vectors))


@pytest.mark.parametrize("method", [model_average, half_average, task_arithmetic])
def test_an_average_changes_neither_the_local_model_nor_the_vectors(tmp_path, method):
    task = make_task(tmp_path)
    before = numbers(task.local.state_dict()), [vector.flat().clone() for vector in task.sources]
    model = method(task, silent).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    after = numbers(task.local.state_dict())
    assert all(np.array_equal(after[name], before[0][name]) for name in after)
    assert all(torch.equal(vector.flat(), row) for vector, row in zip(task.sources, before[1], strict=True))
