"""Sampled routing: a uniform part of each bag, the same for ever, and nothing else is looked at."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from client_builders import SMALL, equal
from each_case import each
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.sampling import sampled
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.config.run_config import load_config
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.vector.task_vector import TaskVector


def numbered(n: int) -> Tensor:
    """A bag whose instances tell their position."""
    return torch.arange(n, dtype=torch.float64)[None, :, None]


def positions(n: int, m: int) -> list[int]:
    found, mask = sampled(numbered(n), None, m)
    assert mask is None
    return sorted(int(position) for position in found.flatten())


@each(("n", "m"), [(10, 1), (10, 9), (1000, 100)])
def test_m_different_positions(n, m):
    assert len(set(positions(n, m))) == m


@each(("n", "m"), [(10_000, 2000), (50_000, 20_000), (100_000, 1000)])
def test_positions_are_spread_uniformly_over_the_bag(n, m):
    """Chi-square over 50 stretches, of a draw without replacement; neither lumps nor a comb."""
    counts = torch.bincount(torch.tensor(positions(n, m)) * 50 // n, minlength=50).double()
    chi_square = float(((counts - m / 50) ** 2 / (m / 50)).sum()) / (1 - m / n)
    assert 49 - 4 * math.sqrt(2 * 49) < chi_square < 49 + 5 * math.sqrt(2 * 49)


@each("lag", [1, 2, 7])
def test_positions_are_drawn_independently_of_their_neighbours(lag):
    n, m = 50_000, 10_000
    chosen = torch.zeros(n)
    chosen[positions(n, m)] = 1
    pairs, expected = float((chosen[lag:] * chosen[:-lag]).sum()), (n - lag) * (m / n) ** 2
    assert abs(pairs - expected) < 5 * math.sqrt(expected)


def test_the_last_position_is_drawn_like_any_other():
    """Of bags of 600 sizes, each seen by a third: it is seen in a third of them."""
    n = 600
    last = sum((size - 1) in positions(size, size // 3) for size in range(300, 300 + n))
    assert abs(last - n / 3) < 5 * math.sqrt(n * 2 / 9)


def test_a_smaller_part_lies_within_a_larger_one():
    parts = [set(positions(500, m)) for m in (1, 10, 100, 499)]
    assert all(small < large for small, large in pairwise(parts))


def test_the_part_is_the_same_whenever_the_bag_comes_by():
    torch.manual_seed(1)
    first = positions(500, 20)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert positions(500, 20) == first and torch.equal(torch.get_rng_state(), state)
    assert positions(501, 20) != positions(20_000, 20)


def test_the_part_is_the_same_in_every_release():
    """Or models that are kept would route otherwise after an update."""
    assert positions(1000, 5) == [162, 492, 541, 625, 798]


@each("m", [9, 10, 1000])
@each("masked", [False, True])
def test_a_bag_that_is_small_enough_is_seen_whole(m, masked):
    bags = torch.randn(3, 9, 2)
    mask = torch.arange(9) < torch.tensor([[9], [1], [4]]) if masked else None
    found, found_mask = sampled(bags, mask, m)
    assert found is bags and found_mask is mask


def test_bags_of_one_stack_are_seen_at_the_same_positions():
    bags = numbered(30) + 1000 * torch.arange(4)[:, None, None]
    found, _ = sampled(bags, None, 7)
    assert found.shape == (4, 7, 1)
    for b in range(4):
        assert sorted(int(x) - 1000 * b for x in found[b].flatten()) == positions(30, 7)


@each("filler", [0.0, -1.0, float("nan")])
def test_a_padded_bag_is_seen_as_it_is_alone(filler):
    sizes, m = (40, 3, 12, 13, 1, 12), 12
    bags = [numbered(size)[0] + 1000 * i for i, size in enumerate(sizes)]
    padded = pad_sequence(bags, batch_first=True, padding_value=filler)
    mask = torch.arange(40) < torch.tensor(sizes)[:, None]
    found, found_mask = sampled(padded, mask, m)
    assert found.shape == (6, m, 1) and found_mask.shape == (6, m) and found_mask.dtype == torch.bool
    for i, size in enumerate(sizes):
        real = sorted(int(x) - 1000 * i for x in found[i][found_mask[i]].flatten())
        assert real == (positions(size, m) if size > m else list(range(size)))


def vector(seed: int) -> TaskVector:
    noise, shapes = torch.Generator().manual_seed(seed), SMALL.encoder_shapes.items()
    return TaskVector(SMALL, "0" * 64, {name: 0.3 * torch.randn(shape, generator=noise) for name, shape in shapes})


def steph(m: int | None, variant: str = "nn") -> Steph:
    torch.manual_seed(0)
    mixture = Mixture.of(untrained_model(SMALL, 0), vector(0), [vector(seed) for seed in range(1, 6)])
    config = StephConfig(K=3, variant=variant, output="softplus", routing_instances=m)
    return Steph(mixture, config, dropout=0.25)


def bag_of(n: int, seed: int = 0) -> Tensor:
    return torch.randn(1, n, SMALL.width, generator=torch.Generator().manual_seed(seed))


def test_the_published_recipe_and_the_defaults_look_at_all_instances():
    assert load_config(None, ["preset=paper"]).recipe.steph.routing_instances is None
    assert StephConfig().routing_instances is None


@each("training", [False, True])
@each("n", [1, 11, 12])
@each("variant", ["nn", "fnn"])
def test_a_bag_that_is_small_enough_comes_out_as_without_sampling(n, variant, training):
    found = []
    for m in (None, 12):
        model = steph(m, variant).train(training)
        torch.manual_seed(5)
        hazards = model(bag_of(n))
        hazards.sum().backward()
        found.append({"hazards": hazards.detach(), **{name: p.grad for name, p in model.named_parameters()}})
    assert equal(*found)


def routed(model: Steph, bag: Tensor) -> dict[str, Tensor]:
    """What routing says of a bag, and its gradients."""
    model.zero_grad()
    routing = model.route(bag)
    (routing.w.square().sum() + routing.lam.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in model.hypernetwork.named_parameters() if p.grad is not None}
    return {"w": routing.w.detach(), "lam": routing.lam.detach(), "kept": routing.kept, **gradients}


@each("variant", ["nn", "fnn"])
def test_routing_and_its_gradient_know_the_part_alone(variant):
    model, bag = steph(12, variant).eval(), bag_of(40)
    part = positions(40, 12)
    rest = sorted({*range(40)} - {*part})
    before = routed(model, bag)
    changed = bag.clone()
    changed[:, rest] = float("nan")
    assert equal(routed(model, changed), before)
    alone = routed(steph(None, variant).eval(), bag[:, part])
    for name, tensor in before.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-6)
    for position in part:
        changed = bag.clone()
        changed[:, position] += 3.0
        assert not torch.equal(routed(model, changed)["w"], before["w"])


def test_the_merged_model_sees_every_instance():
    model, bag = steph(12).eval(), bag_of(40)
    hazards = model(bag)
    for position in set(range(40)) - set(positions(40, 12)):
        changed = bag.clone()
        changed[:, position] += 3.0
        assert torch.equal(model.route(changed).w, model.route(bag).w) and not torch.equal(model(changed), hazards)


def test_a_padded_bag_is_routed_as_alone():
    model, bags = steph(12).eval(), [bag_of(n, seed=n)[0] for n in (40, 3, 12, 13, 1)]
    mask = torch.arange(40) < torch.tensor([[len(bag)] for bag in bags])
    together = model.route(pad_sequence(bags, batch_first=True, padding_value=7.0), mask)
    for i, bag in enumerate(bags):
        alone = model.route(bag[None])
        torch.testing.assert_close((together.w[i], together.lam[i]), (alone.w[0], alone.lam[0]), rtol=1e-5, atol=1e-6)


def test_training_and_prediction_see_the_same_part():
    model, bag = steph(12), bag_of(40)
    rest = sorted({*range(40)} - {*positions(40, 12)})
    changed = bag.clone()
    changed[:, rest] += 5.0
    for training in (True, False, True):
        model.train(training)
        torch.manual_seed(3)
        first = model.route(bag).w
        torch.manual_seed(3)
        assert torch.equal(model.route(changed).w, first)
