"""AdaMerging and its kin: hazards and loss against the weighted sum written as loops, and what is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import CPU, SMALL, Spy, equal, m0_of, make_recipe, make_vectors, state_of
from each_case import each
from method_builders import (
    all_bags,
    encoder_of,
    ids,
    make_task,
    numbers,
    own_of,
    padded,
    plain_hazards,
    plain_logsumexp,
    plain_nll,
    plus,
    random_bags,
    random_vector,
    row_of,
    vector_of,
)

import fedsteph.client.methods.merged
from fedsteph.client.methods.merged import METHODS, Merged
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.training.batch import batches
from fedsteph.client.training.objective import backward
from fedsteph.common.host.progress import silent
from fedsteph.common.model.initial_model import model_digest, untrained_model

N = 7  # more sources than STEPH would keep


def merged_model(*, hyper: bool, n: int = N, dropout: float = 0.0) -> tuple[Merged, dict, list]:
    """A model in evaluation mode over random vectors; its theta_0 and vectors as float64 tensors by name."""
    m0 = untrained_model(SMALL, 3)
    vectors = [random_vector(SMALL, model_digest(m0), k, scale=0.5) for k in range(n)]
    mixture = Mixture(
        SMALL,
        torch.cat([tensor.detach().ravel() for tensor in m0.encoder_state().values()]),
        torch.stack([torch.from_numpy(row_of(vector)) for vector in vectors]),
    )
    torch.manual_seed(0)
    model = Merged(mixture, dropout, hyper=hyper, surgery=None).eval()
    return model, numbers(m0.encoder_state()), [numbers(vector.tensors) for vector in vectors]


def plain_w(model: Merged, bag: np.ndarray) -> np.ndarray:
    """The hypernetwork's weights: the mean of ReLU(W x + b) over instances, then two layers, then ReLU."""
    state = numbers(model.hypernetwork.state_dict())
    z = np.mean(
        [np.maximum(state["encoder.embed.weight"] @ x + state["encoder.embed.bias"], 0) for x in bag.astype(float)],
        axis=0,
    )
    hidden = np.maximum(state["head_agg.0.weight"] @ z + state["head_agg.0.bias"], 0)
    return np.maximum(state["head_agg.3.weight"] @ hidden + state["head_agg.3.bias"], 0)


BAGS = random_bags([5, 1, 9, 3], SMALL.width)
STACK, MASK = padded(BAGS)


def test_the_weights_begin_at_one_over_the_number_of_sources():
    model, *_ = merged_model(hyper=False)
    assert model.w.tolist() == pytest.approx([1 / N] * N) and model.weights(STACK, MASK).shape == (1, N)


@each("n", [1, N])
def test_hazards_of_given_weights_are_those_of_the_merged_model(n):
    """Positive, negative and small weights alike: all of them count, without top-K or an activation."""
    model, theta_0, vectors = merged_model(hyper=False, n=n)
    w = [0.3, -0.4, 0.05, 0.9, -0.01, 0.2, 0.6][:n]
    with torch.no_grad():
        model.w.copy_(torch.tensor(w))
        found = model(STACK, MASK).numpy()
    theta = plus(theta_0, w, vectors)
    np.testing.assert_allclose(found, [plain_hazards(theta, model.head, bag) for bag in BAGS], atol=2e-6)


def test_the_gradient_reaches_every_weight():
    model, *_ = merged_model(hyper=False)
    model(STACK, MASK).sum().backward()
    assert model.w.grad.shape == (N,) and (model.w.grad != 0).all()


def test_a_hypernetwork_s_weights_make_a_merged_model_of_each_bag_s_own():
    model, theta_0, vectors = merged_model(hyper=True)
    with torch.no_grad():
        model.hypernetwork.head_agg[3].bias.add_(0.2)
    weights = [plain_w(model, bag) for bag in BAGS]
    assert len({tuple(w) for w in weights}) == len(BAGS)
    assert ((np.array(weights) > 0).sum(axis=1) > 5).any()  # a bag with more sources than STEPH's five
    with torch.no_grad():
        np.testing.assert_allclose(model.weights(STACK, MASK).numpy(), weights, atol=1e-6)
        found = model(STACK, MASK).numpy()
        alone = model(torch.from_numpy(BAGS[0])[None]).numpy()
    expected = [plain_hazards(plus(theta_0, w, vectors), model.head, bag) for w, bag in zip(weights, BAGS, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(alone, expected[:1], atol=2e-6)


@pytest.mark.parametrize("hyper", [False, True])
def test_the_loss_is_the_nll_and_gamma_times_the_squared_logsumexp(hyper, tmp_path):
    gamma, alpha = 0.3, 0.25
    task = make_task(tmp_path, "model.embed=8", "model.attention=5", "model.n_bins=4", f"training.alpha={alpha}")
    cohort = task.train
    model, theta_0, vectors = merged_model(hyper=hyper)
    if not hyper:
        with torch.no_grad():
            model.w.copy_(torch.linspace(-0.5, 0.7, N))
    loss = 0.0
    for i, patient in enumerate(cohort.patients):
        bag = cohort.bag(i).numpy()
        w = plain_w(model, bag) if hyper else model.w.detach().double().numpy()
        hazards = plain_hazards(plus(theta_0, w, vectors), model.head, bag)
        loss += plain_nll(hazards, patient.t, patient.e, alpha) + gamma * plain_logsumexp(w) ** 2
    n = len(cohort)
    found = backward(
        lambda batch: model.outputs(batch, gamma), lambda: batches(cohort, range(n), 4, CPU), n, task.recipe.training
    )
    assert float(found) == pytest.approx(loss / n, rel=1e-5)
    for batch in all_bags(cohort, 4):
        assert model.outputs(batch, gamma).penalty.shape == (len(batch.bags),)


def test_dropout_is_active_in_the_merged_encoder_while_it_trains():
    model, *_ = merged_model(hyper=False, dropout=0.5)
    assert torch.equal(model(STACK, MASK), model(STACK, MASK))
    model.train()
    assert not torch.equal(model(STACK, MASK), model(STACK, MASK))


def test_the_eight_methods():
    names = {"adamerging", "ties", "surgery", "iso_c"}
    assert METHODS.keys() == names | {f"{name}_hyper" for name in names}


QUICK = ("training.lr=0.02", "training.epochs=2", "model.n_bins=4")


@pytest.mark.parametrize("name", METHODS)
def test_what_each_method_merges_learns_and_starts_from(tmp_path, name, monkeypatch):
    task = make_task(tmp_path, *QUICK, "comparators.density=0.5", "comparators.surgery_rank=3", "steph.K=1")
    spy = Spy(monkeypatch, fedsteph.client.methods.merged, "fit_survival")
    trained = METHODS[name](task, silent)
    model, (call,) = trained.model, spy.calls
    assert ids(call.args[2]) == ids(task.train) and not model.training

    own = np.concatenate([tensor.ravel() for tensor in own_of(task).values()])
    theta_0 = np.concatenate([tensor.ravel() for tensor in encoder_of(task).values()])
    np.testing.assert_allclose(model.mixture.theta_0.numpy(), theta_0, atol=1e-7)
    assert len(model.mixture.stack) == len(task.sources) == 3
    for row, source in zip(model.mixture.stack.numpy(), task.sources, strict=True):
        np.testing.assert_allclose(row, plain_rule(name, own, row_of(source), task), atol=1e-5)

    # At 6 -> 8, 6, 4 with 3 sources, counted by hand.
    head, w, surgery = 8 * 4 + 4, 3, 2 * 3 * 8
    hypernetwork = (6 * 8 + 8) + (8 * 8 + 8) + (8 * 3 + 3)
    hyper = name.endswith("_hyper")
    expected = head + (hypernetwork if hyper else w) + (surgery if name.startswith("surgery") else 0)
    assert trained.learnable == expected == sum(p.numel() for p in model.parameters())
    assert (model.surgery is not None) == name.startswith("surgery")
    assert not torch.equal(model.head.weight, task.local.head.weight)
    if not hyper:
        assert (model.w.detach() != 1 / 3).all()


def plain_rule(name: str, own: np.ndarray, source: np.ndarray, task) -> np.ndarray:
    if name.startswith("ties"):
        n_kept = round(0.5 * len(own))
        trimmed = []
        for row in (own, source):
            smallest_kept = np.sort(np.abs(row))[-n_kept]
            trimmed.append(np.where(np.abs(row) >= smallest_kept, row, 0.0))
        sign = np.sign(trimmed[0] + trimmed[1])
        return sum(np.where(np.sign(row) == sign, row, 0.0) for row in trimmed)
    if name.startswith("iso_c"):
        total = vector_of(task.m0.architecture, "0" * 64, own + source)
        pieces = []
        for tensor in numbers(total.tensors).values():
            if tensor.ndim == 1:
                pieces.append(tensor / 2)
            else:
                U, S, Vt = np.linalg.svd(tensor, full_matrices=False)
                pieces.append((S.mean() * U @ Vt).ravel())
        return np.concatenate(pieces)
    return source


@pytest.mark.parametrize("name", ["adamerging", "ties_hyper"])
def test_the_recipe_s_gamma_weighs_the_z_loss(tmp_path, monkeypatch, name):
    task = make_task(tmp_path, *QUICK, "comparators.gamma=0.7", "steph.gamma=0.1")
    spy = Spy(monkeypatch, fedsteph.client.methods.merged, "fit_survival")
    model = METHODS[name](task, silent).model
    forward = spy.calls[0].args[1]
    for batch in all_bags(task.train, 4):
        w = model.weights(batch.bags, batch.mask).detach().double().numpy()
        expected = [0.7 * plain_logsumexp(row) ** 2 for row in np.broadcast_to(w, (len(batch.bags), 3))]
        np.testing.assert_allclose(forward(batch).penalty.detach().numpy(), expected, rtol=1e-5)


def test_a_training_is_a_function_of_its_fold_and_leaves_the_random_state_alone(tmp_path):
    task = make_task(tmp_path, *QUICK)
    torch.manual_seed(1)
    first = state_of(METHODS["adamerging_hyper"](task, silent).model)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = state_of(METHODS["adamerging_hyper"](task, silent).model)
    assert torch.equal(torch.get_rng_state(), before) and equal(first, second)


def test_training_is_the_base_models_whatever_steph_s_own_is(tmp_path, monkeypatch):
    task = make_task(tmp_path, "training.epochs=4", "steph.epochs=2", "steph.lr=0.03")
    spy = Spy(monkeypatch, fedsteph.client.methods.merged, "fit_survival")
    METHODS["adamerging"](task, silent)
    assert spy.calls[0].args[3] == task.recipe


def test_the_vectors_are_constants():
    recipe = make_recipe()
    own, *sources = make_vectors(recipe, 4).values()
    model = Merged(Mixture.of(m0_of(recipe), own, sources), 0.25, hyper=False, surgery=None)
    assert {name for name, _ in model.named_parameters()} == {"w", "head.weight", "head.bias"}
    assert not model.mixture.stack.requires_grad and not model.mixture.theta_0.requires_grad
