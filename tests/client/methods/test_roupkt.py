"""ROUPKT against a plain reference bag by bag, its penalties, its size, and what never moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, SMALL, Spy, equal, make_cohort, state_of
from each_case import each
from method_builders import (
    all_bags,
    encoder_of,
    ids,
    make_task,
    numbers,
    own_of,
    padded,
    plain_encode,
    plain_logsumexp,
    plain_nll,
    plus,
    random_bags,
    sigmoid,
)

import fedsteph.client.methods.roupkt
from fedsteph.client.methods.roupkt import Roupkt, roupkt
from fedsteph.client.methods.task import learnable_parameters
from fedsteph.client.training.batch import batches
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.host.progress import silent
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model

BAGS = random_bags([5, 1, 9, 3], SMALL.width)


def of_models(n: int, dropout: float = 0.0) -> tuple[Roupkt, list[BaseModel]]:
    frozen = [untrained_model(SMALL, 10 + k) for k in range(n)]
    torch.manual_seed(1)
    model = Roupkt(frozen, untrained_model(SMALL, 99, dropout))
    with torch.no_grad():
        model.route.weight.mul_(20)  # so that experts differ in their share
    return model.eval(), frozen


def plain_logits(model: Roupkt, bag: np.ndarray) -> np.ndarray:
    router = {
        name.removeprefix("router.").replace("/", "."): tensor for name, tensor in numbers(state_of(model)).items()
    }
    return numbers(state_of(model))["route.weight"] @ plain_encode(router, bag)


def plain_forward(model: Roupkt, encoders: list[dict], bag: np.ndarray) -> np.ndarray:
    """Softmax over all, the five largest as they are, each expert on its own frozen model's slide vector."""
    state, logits = numbers(state_of(model)), plain_logits(model, bag)
    p = np.exp(logits) / np.exp(logits).sum()
    top = sorted(range(len(p)), key=lambda k: -p[k])[:5]
    z = np.zeros(state["head.weight"].shape[1])
    for k in top:
        expert = state[f"experts.{k}.weight"] @ plain_encode(encoders[k], bag) + state[f"experts.{k}.bias"]
        z += p[k] * np.maximum(expert, 0.0)
    return sigmoid(state["head.weight"] @ z + state["head.bias"])


def test_the_published_size():
    architecture = Architecture(width=1536, embed=512, attention=384, n_bins=32)
    model = untrained_model(architecture, 0)
    assert learnable_parameters(Roupkt([model] * 13, model)) == 4_618_913


@each("n", [2, 5, 8])
def test_hazards_are_those_of_the_plain_reference(n):
    model, frozen = of_models(n)
    encoders = [numbers(one.encoder_state()) for one in frozen]
    expected = [plain_forward(model, encoders, bag) for bag in BAGS]
    stack, mask = padded(BAGS)
    with torch.no_grad():
        np.testing.assert_allclose(model(stack, mask).numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(model(torch.from_numpy(BAGS[2])[None]).numpy(), expected[2:3], atol=1e-6)


def test_the_five_kept_shares_are_not_renormalised():
    """Equal shares of eight models: five eighths of one expert's answer, where all experts are one and the same."""
    model = Roupkt([untrained_model(SMALL, 10)] * 8, untrained_model(SMALL, 99)).eval()
    with torch.no_grad():
        model.route.weight.zero_()
        for expert in model.experts:
            expert.load_state_dict(model.experts[0].state_dict())
        z = model.represent(torch.from_numpy(BAGS[0])[None], None)[0, 0]
        one = torch.relu(model.experts[0](z))
        expected = torch.sigmoid(model.head(5 / 8 * one))
        torch.testing.assert_close(model(torch.from_numpy(BAGS[0])[None])[0], expected)


def test_the_two_penalties_by_hand():
    """0.01 x the probability of the most probable model, and 0.01 x the squared logsumexp of the logits."""
    model, frozen = of_models(8)
    encoders = [numbers(one.encoder_state()) for one in frozen]
    cohort = make_cohort([4, 2, 7, 5], width=SMALL.width)
    by_id = {patient.id: cohort.bag(i).numpy() for i, patient in enumerate(cohort.patients)}
    for batch in all_bags(cohort, SMALL.n_bins):
        outputs = model.outputs(batch)
        logits = [plain_logits(model, by_id[key]) for key in batch.ids]
        expected = [0.01 * max(np.exp(x) / np.exp(x).sum()) + 0.01 * plain_logsumexp(x) ** 2 for x in logits]
        np.testing.assert_allclose(outputs.penalty.detach().numpy(), expected, rtol=1e-4)
        hazards = [plain_forward(model, encoders, by_id[key]) for key in batch.ids]
        np.testing.assert_allclose(outputs.hazards.detach().numpy(), hazards, atol=1e-6)


def test_a_step_s_loss_is_the_nll_and_the_penalties():
    model, frozen = of_models(6)
    encoders = [numbers(one.encoder_state()) for one in frozen]
    cohort, expected = make_cohort([4, 2, 7, 5, 3], width=SMALL.width), 0.0
    for i, patient in enumerate(cohort.patients):
        bag = cohort.bag(i).numpy()
        logits = plain_logits(model, bag)
        p = np.exp(logits) / np.exp(logits).sum()
        expected += plain_nll(plain_forward(model, encoders, bag), patient.t, patient.e, 0.5)
        expected += 0.01 * p.max() + 0.01 * plain_logsumexp(logits) ** 2
    found = backward(model.outputs, lambda: batches(cohort, range(5), SMALL.n_bins, CPU), 5, TrainingConfig())
    assert float(found) == pytest.approx(expected / 5, rel=1e-5)


def test_what_is_remembered_belongs_to_the_patient_and_not_to_the_place_in_the_batch():
    model, _ = of_models(6)
    (whole,) = all_bags(make_cohort([3, 3, 3], width=SMALL.width), SMALL.n_bins)
    expected = model(whole.bags)
    part = replace(whole, bags=whole.bags[1:], ids=whole.ids[1:])
    turned = replace(whole, bags=whole.bags.flip(0), ids=whole.ids[::-1])
    torch.testing.assert_close(model.outputs(part).hazards, expected[1:])
    torch.testing.assert_close(model.outputs(turned).hazards, expected.flip(0))


def test_gradients_reach_the_router_the_kept_experts_and_the_head_but_no_frozen_model():
    model, frozen = of_models(6)
    (batch,) = all_bags(make_cohort([3], width=SMALL.width), SMALL.n_bins)
    outputs = model.outputs(batch)
    outputs.hazards.sum().backward()
    assert all(parameter.grad is None for one in frozen for parameter in one.parameters())
    used = {k for k, expert in enumerate(model.experts) if expert.weight.grad.any()}
    least = int(np.argmin(plain_logits(model, batch.bags[0].numpy())))
    assert used <= {*range(6)} - {least} and len(used) >= 2 and model.route.weight.grad.any()
    assert model.router["embed/weight"].grad.any() and model.head.weight.grad.any()


def test_dropout_acts_on_the_router_alone():
    model, _ = of_models(6, dropout=0.5)
    bags = torch.from_numpy(BAGS[2])[None]
    assert torch.equal(model(bags), model(bags))
    model.train()
    assert not torch.equal(model(bags), model(bags))
    assert torch.equal(model.represent(bags, None), model.represent(bags, None))


QUICK = ("training.lr=0.02", "training.epochs=2", "model.n_bins=4")


def test_training_moves_all_that_is_learnable_and_no_frozen_encoder(tmp_path, monkeypatch):
    task = make_task(tmp_path, *QUICK, n_sources=3)
    spy = Spy(monkeypatch, fedsteph.client.methods.roupkt, "fit_survival")
    before = []
    real = Roupkt.__init__

    def remembering(self, *args):
        real(self, *args)
        before.append(state_of(self))

    monkeypatch.setattr(Roupkt, "__init__", remembering)
    trained = roupkt(task, silent)
    assert ids(spy.calls[0].args[2]) == ids(task.train)
    after = state_of(trained.model)
    assert [name for name in after if torch.equal(before[0][name], after[name])] == []
    # At 6 -> 8, 6, 4 with 4 models, counted by hand.
    router = (6 * 8 + 8) + 2 * (8 * 6 + 6) + (6 + 1)
    assert trained.learnable == router + 8 * 4 + 4 * (8 * 8 + 8) + (8 * 4 + 4)
    # The target's own model first, then the sources': M0 plus each vector, still.
    encoders = [plus(encoder_of(task), [1.0], [own_of(task)])]
    encoders += [plus(encoder_of(task), [1.0], [numbers(source.tensors)]) for source in task.sources]
    for i in range(len(task.train)):
        bag = task.train.bag(i)
        found = trained.model.represent(bag[None], None)[0].numpy()
        np.testing.assert_allclose(found, [plain_encode(theta, bag.numpy()) for theta in encoders], atol=1e-5)
    assert not trained.model.training


def test_a_training_is_a_function_of_its_fold(tmp_path):
    task = make_task(tmp_path, *QUICK)
    torch.manual_seed(1)
    first = state_of(roupkt(task, silent).model)
    torch.manual_seed(2)
    assert equal(first, state_of(roupkt(task, silent).model))
