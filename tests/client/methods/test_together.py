"""Fine-tuning what was trained together: it begins at the common encoder, under a head of the target's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import Spy, equal, m0_of, make_vectors, state_of
from method_builders import encoder_of, ids, make_task, numbers, plus

import fedsteph.client.training.local
from fedsteph.client.methods.registry import REGISTRY
from fedsteph.client.methods.together import METHODS
from fedsteph.client.training.local import train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.host.progress import silent
from fedsteph.common.model.survival import bin_of, empirical_hazard

NAMES = ("fedavg", "fedprox", "pooled")


def task_with_globals(folder, *settings):
    task = make_task(folder, *settings)
    common = dict(zip(NAMES, make_vectors(task.recipe, 6, scale=0.3).values(), strict=False))
    task.globals.update(common)
    return task


def test_the_methods():
    assert tuple(METHODS) == NAMES and all(REGISTRY[name] is METHODS[name] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_with_next_to_no_learning_rate_it_stays_at_m0_plus_its_own_global(tmp_path, name):
    task = task_with_globals(tmp_path, "training.lr=1e-9", "training.epochs=1")
    model = METHODS[name](task, silent).model
    expected = plus(encoder_of(task), [1.0], [numbers(task.globals[name].tensors)])
    found = numbers(model.encoder_state())
    for tensor_name, tensor in expected.items():
        np.testing.assert_allclose(found[tensor_name], tensor, atol=1e-6)
    for other in {*NAMES} - {name}:
        apart = plus(expected, [-1.0, 1.0], [numbers(task.globals[n].tensors) for n in (name, other)])
        assert np.abs(found["embed.weight"] - apart["embed.weight"]).max() > 0.1


def test_the_head_begins_where_the_target_s_own_model_s_does(tmp_path):
    task = task_with_globals(tmp_path, "training.lr=1e-9", "training.epochs=1", "model.n_bins=4")
    model = METHODS["fedavg"](task, silent).model
    torch.testing.assert_close(model.head.weight, m0_of(task.recipe).head.weight, atol=1e-6, rtol=0)
    hazard = empirical_hazard(bin_of(task.train.times, 4), task.train.events, 4)
    np.testing.assert_allclose(torch.sigmoid(model.head.bias).detach().numpy(), hazard, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_is_trained_on_the_training_part_by_the_base_models_recipe(tmp_path, name, monkeypatch):
    task = task_with_globals(tmp_path, "training.lr=0.02", "steph.lr=0.5", "steph.epochs=1", "model.n_bins=4")
    spy = Spy(monkeypatch, fedsteph.client.training.local, "fit_survival")
    trained = METHODS[name](task, silent)
    (call,) = spy.calls
    assert ids(call.args[2]) == ids(task.train) and call.args[3] == task.recipe
    # At 6 -> 8, 6, 4, counted by hand.
    assert trained.learnable == (6 * 8 + 8) + 2 * (8 * 6 + 6) + (6 + 1) + (8 * 4 + 4)
    start = task.globals[name].applied_to(task.m0, task.m0.head_state())
    moved = [n for n, tensor in state_of(trained.model).items() if not torch.equal(tensor, start.state_dict()[n])]
    # A softmax does not depend on the bias that all its scores have in common.
    assert {*start.state_dict()} - {*moved} <= {"attention_c.bias"} and not trained.model.training


def test_it_is_another_training_than_the_local_model_s(tmp_path):
    """Neither the start nor the seed is the local model's; and it is a function of both."""
    task = task_with_globals(tmp_path, "training.lr=0.02")
    first, second = (state_of(METHODS["fedavg"](task, silent).model) for _ in range(2))
    assert equal(first, second)
    start = task.globals["fedavg"]
    same_start = train_local(task.train, task.recipe, label="fold 0", run=TrainingRun(task.device), start=start)
    assert not equal(first, state_of(same_start)) and not equal(first, state_of(task.local))
