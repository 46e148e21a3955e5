"""A fresh head on a frozen encoder: what is frozen, what is learned, and which source is the best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import CPU, Spy, equal, state_of
from method_builders import (
    dead_vector,
    ids,
    make_task,
    numbers,
    plain_encode,
    plain_hazards,
    plain_pairs,
    telling_vector,
    with_vectors,
)

import fedsteph.client.methods.frozen
from fedsteph.client.methods.frozen import HeadOnly, best_source, pooled, tuned_head
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.host.progress import silent

QUICK = ("training.lr=0.02", "training.epochs=2")


def encoder(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.encoder_state().items()}


def test_pooled_vectors_are_the_encoder_s_patient_by_patient(tmp_path):
    task = make_task(tmp_path)
    vectors = pooled(task.local, task.train, CPU)
    assert vectors.patients == task.train.patients and vectors.width == 8
    theta = numbers(task.local.encoder_state())
    for i in range(len(vectors)):
        assert vectors.bag(i).shape == (1, 8) and vectors.n_instances(i) == 1
        expected = plain_encode(theta, task.train.bag(i).numpy())
        np.testing.assert_allclose(vectors.bag(i)[0].numpy(), expected, atol=1e-6)


def test_a_head_alone_reads_the_one_instance_of_each_bag():
    head = HeadOnly(5, 3)
    z = torch.rand(4, 1, 5)
    expected = torch.sigmoid(z[:, 0] @ head.head.weight.T + head.head.bias)
    torch.testing.assert_close(head(z), expected)
    torch.testing.assert_close(head(z, torch.ones(4, 1, dtype=torch.bool)), expected)


def test_the_tuned_head_stands_on_the_local_encoder_bit_for_bit(tmp_path):
    """A local model far enough from M0 that ``M0 + (local - M0)`` is not the local model to the last bit."""
    task = make_task(tmp_path, "training.lr=0.3", "training.epochs=3", "model.embed=64", "model.attention=32")
    assert not equal(encoder(task.own.applied_to(task.m0, task.m0.head_state())), encoder(task.local))
    before = state_of(task.local)
    trained = tuned_head(task, silent)
    assert equal(encoder(trained.model), encoder(task.local)) and equal(before, state_of(task.local))


def test_the_best_source_s_head_stands_on_its_encoder_bit_for_bit(tmp_path):
    task = make_task(tmp_path, *QUICK, n_sources=1)
    trained = best_source(task, silent)
    assert equal(encoder(trained.model), encoder(task.sources[0].applied_to(task.m0, task.m0.head_state())))


@pytest.mark.parametrize("method", [tuned_head, best_source])
def test_the_head_is_fresh_and_all_that_is_learned(tmp_path, method):
    task = make_task(tmp_path, *QUICK, n_sources=2)
    trained = method(task, silent)
    assert trained.learnable == 8 * 32 + 32
    for model in (task.local, task.m0):
        assert not torch.equal(trained.model.head.weight, model.head.weight)
        assert not torch.equal(trained.model.head.bias, model.head.bias)
    assert not trained.model.training


@pytest.mark.parametrize("method", [tuned_head, best_source])
def test_the_model_is_the_encoder_with_the_head_that_was_trained(tmp_path, method, monkeypatch):
    task = make_task(tmp_path, *QUICK, n_sources=2)
    spy = Spy(monkeypatch, fedsteph.client.methods.frozen, "_fit_head")
    model = method(task, silent).model
    fitted = spy.calls[-1]
    assert ids(fitted.args[1]) == ids(task.train)
    theta = numbers(model.encoder_state())
    found = predict_hazards(model, task.train, CPU)
    on_vectors = predict_hazards(fitted.result, fitted.args[1], CPU)
    np.testing.assert_allclose(found, on_vectors, atol=1e-6)
    for i in range(len(task.train)):
        np.testing.assert_allclose(
            found[i], plain_hazards(theta, fitted.result.head, task.train.bag(i).numpy()), atol=1e-6
        )


def test_the_head_is_trained_as_the_recipe_says(tmp_path):
    """On outcomes in order of the first feature and a representation that is that feature, it finds the order."""
    task = make_task(tmp_path, "training.lr=0.1", "training.epochs=15", patients=50, event_share=1.0)
    task = with_vectors(task, [telling_vector(task)])
    model = best_source(task, silent).model
    hazards = predict_hazards(model, task.train, CPU)
    risk = -np.cumprod(1 - hazards, axis=1).sum(axis=1)
    truth = np.array([float(task.train.bag(i)[:, 0].mean()) for i in range(len(task.train))])
    found, _ = plain_pairs(task.train.times, task.train.events, risk)
    best, comparable = plain_pairs(task.train.times, task.train.events, truth)
    assert best / comparable > 0.6 and found / comparable > best / comparable - 0.03


def is_encoder_of(model, task, k: int) -> bool:
    expected = encoder(task.sources[k].applied_to(task.m0, task.m0.head_state()))
    return all(torch.allclose(tensor, expected[name], atol=1e-5) for name, tensor in encoder(model).items())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_best_source_is_the_one_that_tells_patients_apart(tmp_path, place):
    """Two sources make all patients alike, C = 1/2; the third one's representation is the risk."""
    task = make_task(tmp_path, "training.lr=0.1", "training.epochs=10", patients=60, event_share=1.0)
    vectors = [dead_vector(task)] * 2
    vectors.insert(place, telling_vector(task))
    task = with_vectors(task, vectors)
    model = best_source(task, silent).model
    assert [is_encoder_of(model, task, k) for k in range(3)] == [k == place for k in range(3)]


def test_the_best_source_is_the_one_of_most_concordant_pairs_over_all_inner_folds(tmp_path, monkeypatch):
    chosen = set()
    for seed in range(3):
        settings = ("training.lr=0.05", "training.epochs=3", f"training.seed={seed}", "steph.inner_folds=3")
        task = make_task(tmp_path, *settings, n_sources=3, scale=1.0, patients=40, event_share=0.8)
        with monkeypatch.context() as patch:
            spy = Spy(patch, fedsteph.client.methods.frozen, "risks")
            heads = Spy(patch, fedsteph.client.methods.frozen, "_fit_head")
            model = best_source(task, silent).model
        assert len(spy.calls) == 9
        concordant = [0.0] * 3
        for n, call in enumerate(spy.calls):
            k, part = n // 3, task.inner[n % 3]
            theta = numbers(task.sources[k].applied_to(task.m0, task.m0.head_state()).encoder_state())
            head = call.args[0]
            assert heads.calls[n].result is head and ids(heads.calls[n].args[1]) == ids(part.train)
            cohort = part.validation
            hazards = [plain_hazards(theta, head.head, cohort.bag(i).numpy()) for i in range(len(cohort))]
            risk = np.array([-np.cumprod(1 - h).sum() for h in hazards])
            concordant[k] += plain_pairs(cohort.times, cohort.events, risk)[0]
        best = concordant.index(max(concordant))
        assert is_encoder_of(model, task, best)
        chosen.add(best)
    assert len(chosen) > 1  # else this test could not tell a choice from a constant


@pytest.mark.parametrize(("patients", "n_inner"), [(3, 0), (24, 2)])
def test_among_sources_that_do_equally_well_the_first_is_taken(tmp_path, patients, n_inner):
    task = make_task(tmp_path, *QUICK, patients=patients)
    task = with_vectors(task, [dead_vector(task), 2.0 * dead_vector(task)])
    assert len(task.inner) == n_inner and is_encoder_of(best_source(task, silent).model, task, 0)


@pytest.mark.parametrize("method", [tuned_head, best_source])
def test_a_training_is_a_function_of_its_fold(tmp_path, method):
    task = make_task(tmp_path, *QUICK)
    torch.manual_seed(1)
    first = state_of(method(task, silent).model)
    torch.manual_seed(2)
    assert equal(first, state_of(method(task, silent).model))
