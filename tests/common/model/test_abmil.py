"""ABMIL against a loop over instances, and an M0 that is the same for everybody or refused."""

from __future__ import annotations

import dataclasses
from math import exp, tanh

import numpy as np
import pytest
import torch
from each_case import each
from torch import Tensor

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.abmil import gated_attention
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest, pinned_model, untrained_model

SMALL = Architecture(width=5, embed=4, attention=3, n_bins=6)
PAPER = ModelConfig(width=1536)


def model(seed: int = 0) -> BaseModel:
    return untrained_model(SMALL, seed).double().eval()


def bag(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, SMALL.width)))


def padded(bags: list[Tensor], filler: float) -> tuple[Tensor, Tensor]:
    longest = max(len(one) for one in bags)
    mask = torch.tensor([[i < len(one) for i in range(longest)] for one in bags])
    rows = [torch.cat([one, torch.full((longest - len(one), SMALL.width), filler).double()]) for one in bags]
    return torch.stack(rows), mask


def by_hand(weights: dict[str, np.ndarray], instances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slide vector, attention and hazards, one instance and one unit at a time."""
    embedded, scores = [], []
    for x in instances:
        h = [max(0.0, float(w @ x + b)) for w, b in zip(weights["embed.weight"], weights["embed.bias"], strict=True)]
        score = float(weights["attention_c.bias"][0])
        for k in range(SMALL.attention):
            v = float(weights["attention_V.weight"][k] @ h + weights["attention_V.bias"][k])
            u = float(weights["attention_U.weight"][k] @ h + weights["attention_U.bias"][k])
            score += float(weights["attention_c.weight"][0, k]) * tanh(v) / (1 + exp(-u))
        embedded.append(h)
        scores.append(score)
    total = sum(exp(score) for score in scores)
    attention = [exp(score) / total for score in scores]
    z = [sum(a * h[j] for a, h in zip(attention, embedded, strict=True)) for j in range(SMALL.embed)]
    logits = [float(w @ z + b) for w, b in zip(weights["head.weight"], weights["head.bias"], strict=True)]
    return np.array(z), np.array(attention), np.array([1 / (1 + exp(-logit)) for logit in logits])


@each("n", [1, 2, 17])
def test_forward_equals_a_loop_over_instances(n: int) -> None:
    abmil, instances = model(), bag(n)
    z, attention, hazards = by_hand({k: v.numpy() for k, v in abmil.state_dict().items()}, instances.numpy())
    found_z, found_attention = gated_attention(abmil.encoder_state(), instances[None])
    np.testing.assert_allclose(found_z[0].detach(), z, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found_attention[0].detach(), attention, rtol=1e-12)
    np.testing.assert_allclose(abmil(instances[None])[0].detach(), hazards, rtol=1e-12)


def test_parameters_of_the_paper() -> None:
    abmil = untrained_model(Architecture.of(PAPER), seed=42)
    assert sum(p.numel() for p in abmil.parameters()) == 1_197_729
    shapes = {name: tuple(tensor.shape) for name, tensor in abmil.encoder_state().items()}
    assert list(shapes.items()) == list(abmil.architecture.encoder_shapes.items()) and len(shapes) == 8


@each("filler", [0.0, 1e6])
def test_a_padded_batch_equals_each_bag_alone(filler: float) -> None:
    """Whatever stands in the padding, and in gradients too."""
    abmil, bags = model(), [bag(3, 1), bag(8, 2), bag(1, 3)]
    batch, mask = padded(bags, filler)
    together = abmil(batch, mask)
    torch.testing.assert_close(together, torch.cat([abmil(one[None]) for one in bags]), rtol=1e-12, atol=0)
    _, attention = gated_attention(abmil.encoder_state(), batch, mask)
    assert (attention[~mask] == 0).all()
    torch.testing.assert_close(attention.sum(1), torch.ones(3).double(), rtol=1e-12, atol=0)
    names = [name for name, _ in abmil.named_parameters()]
    expected = torch.autograd.grad(sum(abmil(one[None]).sum() for one in bags), abmil.parameters())
    for name, ours, theirs in zip(
        names, torch.autograd.grad(together.sum(), abmil.parameters()), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12, msg=name)


def test_weights_per_bag() -> None:
    """Equal for all bags, they are shared weights; different, each bag runs in its own model."""
    models, bags = [model(seed) for seed in range(3)], torch.stack([bag(7, seed) for seed in range(3)])
    shared, own = models[0].encoder_state(), [one.encoder_state() for one in models]
    repeated = {name: tensor.expand(3, *tensor.shape) for name, tensor in shared.items()}
    torch.testing.assert_close(gated_attention(repeated, bags), gated_attention(shared, bags), rtol=1e-12, atol=1e-14)
    z, attention = gated_attention({name: torch.stack([one[name] for one in own]) for name in shared}, bags)
    for i in range(3):
        alone = gated_attention(own[i], bags[i : i + 1])
        torch.testing.assert_close((z[i : i + 1], attention[i : i + 1]), alone, rtol=1e-12, atol=1e-14)


def test_dropout_is_active_in_training_alone() -> None:
    abmil, instances = model(), bag(50)[None]
    assert torch.equal(abmil(instances), abmil(instances))
    abmil.train()
    assert not torch.equal(abmil(instances), abmil(instances))


def test_m0_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    digests = [model_digest(untrained_model(SMALL, seed)) for seed in (1, 1, 2)]
    torch.manual_seed(6)
    digests.append(model_digest(untrained_model(SMALL, 1)))
    assert digests[0] == digests[1] == digests[3] != digests[2]
    torch.manual_seed(5)
    untrained_model(SMALL, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_m0_is_torch_default_initialisation() -> None:
    torch.manual_seed(3)
    layers = [torch.nn.Linear(*sizes) for sizes in [(5, 4), (4, 3), (4, 3), (3, 1), (4, 6)]]
    expected = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    for ours, theirs in zip(untrained_model(SMALL, 3).parameters(), expected, strict=True):
        assert torch.equal(ours, theirs)


@each("name", [*SMALL.encoder_shapes, "head.weight", "head.bias"])
def test_the_digest_changes_with_the_smallest_change_of_any_tensor(name: str) -> None:
    abmil = untrained_model(SMALL, 0)
    before = model_digest(abmil)
    with torch.no_grad():
        last = abmil.state_dict()[name].view(-1)[-1:]
        last.copy_(torch.nextafter(last, torch.tensor(9.0)))
    assert model_digest(abmil) != before


@each("field", ["width", "embed", "attention", "n_bins"])
def test_the_architecture_digest_covers_every_size(field: str) -> None:
    assert dataclasses.replace(SMALL, **{field: 9}).digest != SMALL.digest


def test_pinned_model() -> None:
    config = ModelConfig(width=5, embed=4, attention=3, n_bins=6, m0_seed=1, dropout=0.125)
    digest = model_digest(untrained_model(SMALL, 1))
    found = pinned_model(dataclasses.replace(config, m0_sha256=digest))
    assert (model_digest(found), found.dropout) == (digest, 0.125)
    for wrong in (None, "0" * 64, model_digest(untrained_model(SMALL, 2))):
        with pytest.raises(ConfigError, match=r"model\.m0_sha256: M0 .* does not have the pinned digest"):
            pinned_model(dataclasses.replace(config, m0_sha256=wrong))


def test_an_architecture_without_width_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.width: the feature width is not set"):
        Architecture.of(ModelConfig())
