"""The hypernetworks against plain loops, and the published parameter counts."""

from __future__ import annotations

import math

import pytest
import torch
from client_builders import CPU, SMALL, make_cohort
from each_case import each

from fedsteph.client.steph.hypernetwork import Hypernetwork, MeanEncoder
from fedsteph.client.steph.mixture import Mixture, coefficients
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import batches
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.vector.task_vector import TaskVector

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


@each(
    ("variant", "weights", "expected"),
    [
        ("nn", "nn", 1_340_984),
        ("fnn", "nn", 2_127_928),
        ("param", "nn", 786_944 + 268_812 + 12 + 16_416),
        ("fix", "nn", 786_944 + 268_812 + 16_416),
        ("nn", "param", 786_944 + 268_812 + 12 + 16_416),
        ("fnn", "param", 786_944 + 268_812 + 12 + 16_416),
        ("param", "param", 12 + 12 + 16_416),
        ("fix", "param", 12 + 16_416),
    ],
)
def test_learnable_parameters_of_the_paper(variant, weights, expected):
    nothing_to_merge = Mixture(PAPER, torch.empty(0), torch.empty(13, 0))
    model = Steph(nothing_to_merge, StephConfig(variant=variant, weights=weights))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@each("n_instances", [1, 3, 9])
def test_the_masked_mean_is_the_plain_mean(n_instances):
    encoder = MeanEncoder(SMALL)
    full = bags(scale=100.0)
    mask = torch.arange(9).expand(5, 9) < n_instances
    for z, bag in zip(encoder(full, mask), full, strict=True):
        torch.testing.assert_close(z, plain_z(encoder, bag[:n_instances]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(full, torch.ones(5, 9, dtype=torch.bool)), encoder(full))


@each(
    ("output", "activation"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("softplus", lambda x: math.log1p(math.exp(x))),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
    ],
)
@each("variant", ["nn", "fnn", "param", "fix"])
def test_w_and_lam_equal_a_plain_reference(variant, output, activation):
    net = hypernetwork(variant=variant, output=output, fixed_lam=0.3, start_mass=0.5)
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


@each("scale", [0.01, 1.0, 1e4])
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
    assert "fixed" not in dict(net.named_parameters()) and net.state_dict()["fixed"].tolist() == [0.0] * 7
    assert not net(bags())[1].any()


@each("variant", ["nn", "fnn"])
def test_dropout_is_in_both_heads_while_training(variant):
    torch.manual_seed(0)
    net = Hypernetwork(SMALL, 7, StephConfig(variant=variant, output="softplus"), dropout=0.5)
    with torch.no_grad():
        net.head_mix[3].bias.fill_(1.0)
    (w, lam), (w_again, lam_again) = net(bags()), net(bags())
    assert not torch.equal(w, w_again) and not torch.equal(lam, lam_again)
    net.eval()
    assert all(torch.equal(a, b) for a, b in zip(net(bags()), net(bags()), strict=True))


@each("variant", ["nn", "fnn"])
def test_the_branches_share_an_encoder_unless_told_otherwise(variant):
    net = hypernetwork(variant=variant)
    net(bags())[1].sum().backward()
    assert (net.encoder.embed.weight.grad is not None) == (variant == "nn")


@each("variant", ["nn", "fnn", "param", "fix"])
def test_learnable_w_is_the_same_for_every_bag_and_starts_at_one_over_their_number(variant):
    """Without an activation: otherwise a w that falls to 0 would stay there."""
    net = hypernetwork(variant=variant, weights="param")
    w, lam = net(bags())
    assert w.shape == lam.shape == (5, 7) and w.unique().tolist() == pytest.approx([1 / 7])
    with torch.no_grad():
        net.w.copy_(torch.arange(7) - 3.0)
    w = net(bags())[0]
    assert w.tolist() == [[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]] * 5
    (w * torch.arange(1.0, 6.0)[:, None]).sum().backward()
    assert net.w.grad.tolist() == [15.0] * 7


@each("variant", ["nn", "fnn"])
def test_under_a_learnable_w_lam_is_still_the_bags_own(variant):
    net = hypernetwork(variant=variant, weights="param")
    _, lam = net(bags())
    for b, bag in enumerate(bags()):
        z = plain_z(net.encoder_mix if variant == "fnn" else net.encoder, bag)
        expected = [1 / (1 + max(float(x), 0.0)) for x in plain_head(net.head_mix, z)]
        assert lam[b].tolist() == pytest.approx(expected, abs=1e-6)


def random_vector(seed: int) -> TaskVector:
    noise, shapes = torch.Generator().manual_seed(seed), SMALL.encoder_shapes.items()
    return TaskVector(SMALL, "0" * 64, {name: torch.randn(shape, generator=noise) for name, shape in shapes})


def start_local(n_sources: int, **config) -> Steph:
    torch.manual_seed(0)
    target, *sources = (random_vector(seed) for seed in range(1 + n_sources))
    mixture = Mixture.of(untrained_model(SMALL, 0), target, sources)
    return Steph(mixture, StephConfig(**{"K": None, "start": "local", **config}), dropout=0.0).eval()


def without_spread(model: Steph) -> Steph:
    """The last layers at 0, so that nothing is left but where w and r start."""
    with torch.no_grad():
        for name in ("head_agg", "head_mix"):
            if hasattr(model.hypernetwork, name):
                for parameter in getattr(model.hypernetwork, name)[3].parameters():
                    parameter.zero_()
    return model


def first_merge(model: Steph) -> torch.Tensor:
    routing = model.route(bags())
    merged = model.mixture.merge(coefficients(routing.w, routing.lam, routing.kept))
    return torch.cat([merged[name].flatten(1) for name in SMALL.encoder_shapes], dim=1).detach()


@each("output", ["relu", "softplus", "sigmoid"])
@each("weights", ["nn", "param"])
@each("variant", ["nn", "fnn", "param"])
@each(("mass", "lam", "n_sources"), [(0.9, 0.9, 5), (0.4, 0.25, 3), (0.7, 1.0, 1)])
def test_the_first_merge_under_start_local(mass, lam, n_sources, variant, weights, output):
    """theta_0 + m l tau_t + m (1 - l) mean(tau_k), whatever w and lam come from."""
    model = start_local(n_sources, variant=variant, weights=weights, output=output, start_lam=lam, start_mass=mass)
    target, sources = model.mixture.stack[0].double(), model.mixture.stack[1:].double()
    expected = model.mixture.theta_0.double() + mass * lam * target + mass * (1 - lam) * sources.mean(dim=0)
    for theta in first_merge(without_spread(model)).double():
        torch.testing.assert_close(theta, expected, rtol=1e-5, atol=1e-5)


@each(
    ("output", "activation", "inverse"),
    [
        ("relu", lambda x: max(x, 0.0), lambda w: w),
        ("softplus", lambda x: math.log1p(math.exp(x)), lambda w: math.log(math.exp(w) - 1)),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x)), lambda w: -math.log(1 / w - 1)),
    ],
)
@each("variant", ["nn", "fnn"])
@each("spread", [0.0, 0.2, 1.0])
def test_w_and_lam_under_start_local_equal_a_plain_reference(variant, output, activation, inverse, spread):
    net = hypernetwork(variant=variant, output=output, K=4, start="local", start_lam=0.8, start_mass=0.6, spread=spread)
    w, lam = net(bags(scale=10.0))
    for b, bag in enumerate(bags(scale=10.0)):
        z = plain_z(net.encoder, bag)
        expected = [activation(inverse(0.6 / 4) + spread * float(x)) for x in plain_head(net.head_agg, z)]
        assert w[b].tolist() == pytest.approx(expected, abs=1e-6)
        z_mix = plain_z(net.encoder_mix, bag) if variant == "fnn" else z
        r = [max(0.25 + spread * float(x), 0.0) for x in plain_head(net.head_mix, z_mix)]  # 1 / 0.8 - 1
        assert lam[b].tolist() == pytest.approx([1 / (1 + x) for x in r], abs=1e-6)


def test_the_default_start_knows_neither_mass_nor_lam_nor_spread():
    found = hypernetwork(start_lam=0.1, start_mass=0.1, spread=0.5)(bags())
    assert all(torch.equal(a, b) for a, b in zip(found, hypernetwork()(bags()), strict=True))


@each("variant", ["nn", "fnn"])
def test_the_first_merges_differ_a_little_from_bag_to_bag(variant):
    """Or no gradient could tell the bags apart."""
    model = start_local(5, variant=variant)
    merged, centre = first_merge(model), first_merge(without_spread(start_local(5, variant=variant)))[:1]
    spread = (merged - centre).norm(dim=1) / (centre - model.mixture.theta_0).norm()
    assert len(merged.unique(dim=0)) == 5 and 0 < float(spread.min()) <= float(spread.max()) < 0.2


@each("K", [1, 2, 5, 9])
def test_the_kept_w_sum_to_the_starting_mass(K):
    """Also where fewer than K sources came."""
    routing = without_spread(start_local(5, K=K, start_mass=0.8)).route(bags())
    assert routing.kept.shape == (5, min(K, 5))
    assert routing.w.gather(1, routing.kept).sum(dim=1).tolist() == pytest.approx([0.8] * 5)


@each("variant", ["nn", "fnn"])
@each(("K", "n_sources"), [(5, 12), (None, 12), (None, 3)])
def test_no_w_and_no_r_is_dead_at_the_start_for_any_bag(variant, K, n_sources):
    """A dead ReLU has no gradient; the default start has many of them."""
    cohort, dead = make_cohort([1, 3, 9, 40] * 8, width=SMALL.width), 0
    for seed in range(5):
        torch.manual_seed(seed)
        config = StephConfig(K=K, variant=variant, start="local", spread=0.03)
        net = Hypernetwork(SMALL, n_sources, config, dropout=0.25)
        default = Hypernetwork(SMALL, n_sources, StephConfig(K=K, variant=variant), dropout=0.25)
        for training in (False, True):
            net.train(training)
            for _, batch in batches(cohort, range(len(cohort)), SMALL.n_bins, CPU):
                w, lam = net(batch.bags, batch.mask)
                assert float(w.detach().min()) > 0 and float(lam.detach().max()) < 1
                w, lam = default(batch.bags, batch.mask)
                dead += int((w == 0).sum()) + int((lam == 1).sum())
    assert dead > 0


def test_start_local_leaves_a_fixed_lam_alone():
    net = start_local(5, variant="fix", fixed_lam=0.3, start_lam=0.9).hypernetwork
    assert net(bags())[1].unique().tolist() == pytest.approx([0.3])
