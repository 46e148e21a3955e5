"""The hypernetworks against plain loops, and the published parameter counts."""

from __future__ import annotations

import math

import pytest
import torch
from client_builders import SMALL

from client.steph.hypernetwork import Hypernetwork, MeanEncoder
from client.steph.mixture import Mixture
from client.steph.model import Steph
from common.abmil import Architecture
from common.config import StephConfig

PAPER = Architecture(width=1536, embed=512, attention=384, n_bins=32)


def hypernetwork(n_sources: int = 7, **config) -> Hypernetwork:
    torch.manual_seed(0)
    return Hypernetwork(SMALL, n_sources, StephConfig(**config), dropout=0.0)


def bags(seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(5, 9, SMALL.width, generator=torch.Generator().manual_seed(seed))


def plain_head(head: torch.nn.Sequential, z: torch.Tensor) -> torch.Tensor:
    first, last = head[0], head[3]
    return (last.weight @ torch.clamp(first.weight @ z + first.bias, min=0) + last.bias).detach()


def plain_z(encoder: MeanEncoder, bag: torch.Tensor) -> torch.Tensor:
    rows = [torch.clamp(encoder.embed.weight @ x + encoder.embed.bias, min=0) for x in bag]
    return sum(rows) / len(rows)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("nn", 1_340_984),
        ("fnn", 2_127_928),
        ("param", 786_944 + 268_812 + 12 + 16_416),
        ("fix", 786_944 + 268_812 + 16_416),
    ],
)
def test_learnable_parameters_of_the_paper(variant, expected):
    nothing_to_merge = Mixture(PAPER, torch.empty(0), torch.empty(13, 0))
    model = Steph(nothing_to_merge, StephConfig(variant=variant))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("n_instances", [1, 3, 9])
def test_the_masked_mean_is_the_plain_mean(n_instances):
    encoder = MeanEncoder(SMALL)
    full = bags(scale=100.0)
    mask = torch.arange(9).expand(5, 9) < n_instances
    for z, bag in zip(encoder(full, mask), full, strict=True):
        torch.testing.assert_close(z, plain_z(encoder, bag[:n_instances]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(full, torch.ones(5, 9, dtype=torch.bool)), encoder(full))


@pytest.mark.parametrize(
    ("output", "activation"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("softplus", lambda x: math.log1p(math.exp(x))),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
    ],
)
@pytest.mark.parametrize("variant", ["nn", "fnn", "param", "fix"])
def test_w_and_lam_equal_a_plain_reference(variant, output, activation):
    net = hypernetwork(variant=variant, output=output, fixed_lam=0.3)
    if variant == "param":
        with torch.no_grad():
            net.r.uniform_(-0.5, 2.0)
    w, lam = net(bags())
    assert w.shape == lam.shape == (5, 7)
    for b, bag in enumerate(bags()):
        z = plain_z(net.encoder, bag)
        assert w[b].tolist() == pytest.approx([activation(float(x)) for x in plain_head(net.head_agg, z)], abs=1e-6)
        if variant == "fix":
            expected = [0.3] * 7
        elif variant == "param":
            expected = [1 / (1 + r) for r in net.r.tolist()]
        else:
            z_mix = plain_z(net.encoder_mix, bag) if variant == "fnn" else z
            expected = [1 / (1 + max(float(x), 0.0)) for x in plain_head(net.head_mix, z_mix)]
        assert lam[b].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e4])
def test_lam_lies_above_0_and_at_most_at_1(scale):
    net = hypernetwork()
    lam = torch.cat([net(bags(seed, scale))[1] for seed in range(20)]).detach()
    assert 0 < float(lam.min()) <= float(lam.max()) <= 1
    with torch.no_grad():
        net.head_mix[3].bias.fill_(-1e9)
    assert bool((net(bags())[1] == 1).all()), "a dead r is the target's own vector alone"


def test_learnable_lam_starts_at_1_and_may_pass_it():
    """No ReLU: otherwise r, which starts at 0, would have no gradient."""
    net = hypernetwork(variant="param")
    _, lam = net(bags())
    assert bool((lam == 1).all())
    lam.sum().backward()
    assert net.r.grad.tolist() == pytest.approx([-5.0] * 7)  # d(1 / (1 + r)) / dr = -1 in each of 5 bags
    with torch.no_grad():
        net.r.fill_(-0.5)
    assert net(bags())[1].unique().tolist() == [2.0]


def test_fixed_lam_is_no_parameter_and_travels_with_the_model():
    net = hypernetwork(variant="fix", fixed_lam=0.0)
    assert "fixed" not in dict(net.named_parameters())
    assert net.state_dict()["fixed"].tolist() == [0.0] * 7
    assert not net(bags())[1].any()


@pytest.mark.parametrize("variant", ["nn", "fnn"])
def test_dropout_is_in_both_heads_while_training(variant):
    torch.manual_seed(0)
    net = Hypernetwork(SMALL, 7, StephConfig(variant=variant, output="sigmoid"), dropout=0.5)
    with torch.no_grad():
        net.head_mix[3].bias.fill_(1.0)
    (w, lam), (w_again, lam_again) = net(bags()), net(bags())
    assert not torch.equal(w, w_again)
    assert not torch.equal(lam, lam_again)
    net.eval()
    assert all(torch.equal(a, b) for a, b in zip(net(bags()), net(bags()), strict=True))


@pytest.mark.parametrize("variant", ["nn", "fnn"])
def test_the_branches_share_an_encoder_unless_told_otherwise(variant):
    net = hypernetwork(variant=variant)
    net(bags())[1].sum().backward()
    assert (net.encoder.embed.weight.grad is not None) == (variant == "nn")
