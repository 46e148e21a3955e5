"""Bags under weights of their own, stacked and padded, against every bag alone in a model of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from each_case import each
from torch import Tensor

from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.encode import encode
from fedsteph.common.model.initial_model import untrained_model

OTHERS = [name for name in KINDS if name != "abmil"]  # test_abmil.py has that one


def model_of(kind: str, seed: int = 0) -> BaseModel:
    return untrained_model(Architecture(6, 8, 8, 4, kind), seed, dropout=0.5).double().eval()


def bag(kind: str, n: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(n, 6)), rng.integers(0, n, (n, KINDS[kind].neighbours))]
    return torch.from_numpy(np.concatenate(rows, axis=1))


def gradients(model: BaseModel, z: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(z.square().sum(), list(model.encoder_state().values())))


@each("kind", OTHERS)
def test_stacked_padded_and_with_own_weights_a_bag_is_as_alone(kind: str) -> None:
    """In values and gradients: so patients' gradients are exact, and a merge is what a loop gives."""
    models = [model_of(kind, seed) for seed in range(3)]
    shared, architecture = models[0], models[0].architecture
    bags = [bag(kind, 6, seed) for seed in range(3)]
    alone = [encode(architecture, shared.encoder_state(), one[None]) for one in bags]
    z, scores = encode(architecture, shared.encoder_state(), torch.stack(bags))
    torch.testing.assert_close((z, scores), tuple(map(torch.cat, zip(*alone, strict=True))), rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(gradients(shared, z), gradients(shared, torch.cat([a for a, _ in alone])), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)

    short = bag(kind, 4, 9)
    padded = torch.stack([bags[0], torch.cat([short, torch.full((2, short.shape[1]), 1e6).double()])])
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    z, scores = encode(architecture, shared.encoder_state(), padded, mask)
    expected = torch.cat([alone[0][0], encode(architecture, shared.encoder_state(), short[None])[0]])
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=1e-12)
    if KINDS[kind].scores:
        assert (scores[1, 4:] == 0).all()
        torch.testing.assert_close(scores.sum(dim=1), torch.ones(2).double())

    own = {name: torch.stack([m.encoder_state()[name].detach() for m in models]) for name in shared.encoder_state()}
    theta = {name: tensor.requires_grad_() for name, tensor in own.items()}
    z, _ = encode(architecture, theta, torch.stack(bags))
    found = torch.autograd.grad(z.square().sum(), list(theta.values()))
    for i, (model, one) in enumerate(zip(models, bags, strict=True)):
        expected, _ = encode(architecture, model.encoder_state(), one[None])
        torch.testing.assert_close(z[i : i + 1], expected, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(found, gradients(model, expected), strict=True):
            torch.testing.assert_close(ours[i], theirs, rtol=1e-7, atol=1e-10)


@each("kind", OTHERS)
def test_dropout_is_active_in_training_alone(kind: str) -> None:
    model, bags = model_of(kind), torch.stack([bag(kind, 20, seed) for seed in range(2)])
    assert torch.equal(model(bags), model(bags))
    model.train()
    assert not torch.equal(model(bags), model(bags))


def test_a_kind_without_scores_says_so() -> None:
    assert model_of("r2t").attention(bag("r2t", 9, 0)).shape == (9,)
    with pytest.raises(ConfigError, match="TransMIL does not say how much each instance counts"):
        model_of("transmil").attention(bag("transmil", 9, 0))
