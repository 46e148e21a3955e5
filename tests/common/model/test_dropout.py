"""One draw for a gated product: its share, its scale, its independence, and that it is two dropouts' product."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from each_case import each
from plain_steph import pooled
from torch import Tensor
from torch.nn import functional

from fedsteph.common.model.abmil import gated_attention
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.dropout import GateDropout
from fedsteph.common.model.initial_model import untrained_model

PROBABILITIES = (0.1, 0.25, 0.5)
N = 2**18
MANY = torch.empty(N)


def dropout_of(p: float, seed: int = 0) -> GateDropout:
    torch.manual_seed(seed)
    found = GateDropout.drawn(p)
    assert found is not None
    return found


def require_share(kept: Tensor, p: float) -> None:
    """Within 5 standard deviations of a binomial: wrong once in two million seeds, and the seeds here are fixed."""
    expected = (1 - p) ** 2
    deviation = (expected * (1 - expected) / kept.numel()) ** 0.5
    assert float(kept.double().mean()) == pytest.approx(expected, abs=5 * deviation)


def require_independent(a: Tensor, b: Tensor, p: float) -> None:
    """Of two variables that are 0 or 1, a covariance of 0 is independence; within 5 standard deviations again."""
    keep = (1 - p) ** 2
    covariance = float(((a.double() - keep) * (b.double() - keep)).mean())
    assert abs(covariance) < 5 * keep * (1 - keep) / a.numel() ** 0.5


@each("p", PROBABILITIES)
@each("seed", [0, 1])
def test_an_entry_is_kept_where_both_branches_would_keep_it(p: float, seed: int) -> None:
    require_share(dropout_of(p, seed).keep(MANY), p)


@each(("p", "dropped"), [(0.25, 28_672), (0.5, 49_152), (0.1, 12_452)])
def test_the_share_and_the_scale_by_hand(p: float, dropped: int) -> None:
    """7/16 and 3/4 of 65,536 exactly, and 0.19 of it rounded; what is kept is scaled back to a mean of 1."""
    found = dropout_of(p)
    assert found.dropped == dropped and found.scale * (65_536 - dropped) / 65_536 == pytest.approx(1.0, rel=1e-15)
    assert found.scale == pytest.approx(1 / (1 - p) ** 2, rel=1e-4)


@each(("dropped", "kept"), [(0, 1.0), (65_535, 2**-16), (1, 1 - 2**-16)])
def test_the_first_and_the_last_of_65_536_draws(dropped: int, kept: float) -> None:
    n = 2**22
    found = GateDropout(dropped, 5).keep(torch.empty(n)).sum()
    assert int(found) == pytest.approx(n * kept, abs=5 * (n * kept * (1 - kept)) ** 0.5)


@each("p", [0.99, 0.998, 0.9999])
def test_a_probability_near_1_still_keeps_something_in_the_mean(p: float) -> None:
    """A configuration may ask for any below 1."""
    found = dropout_of(p)
    assert 0 < found.dropped < 65_536 and float(found.keep(MANY).double().mean()) < 0.001
    z, _ = gated_attention(untrained_model(SMALL, 0).encoder_state(), bag_of(4)[None], dropout=p)
    assert bool(z.isfinite().all())


@each("shape", [(1,), (3,), (5, 7), (2, 3, 5), (1, 1), (0, 4)])
def test_a_draw_is_a_byte_per_entry_of_any_shape(shape: tuple[int, ...]) -> None:
    kept = dropout_of(0.25).keep(torch.empty(shape, dtype=torch.float64))
    assert (kept.shape, kept.dtype) == (shape, torch.uint8) and set(kept.unique().tolist()) <= {0, 1}
    assert torch.equal(kept.flatten(), dropout_of(0.25).keep(MANY)[: kept.numel()])


@each("p", PROBABILITIES)
@each("lag", [1, 2, 3, 4, 7, 8, 384, 1024])
def test_entries_are_independent_of_their_neighbours(p: float, lag: int) -> None:
    """Within a random word, from word to word, and one row of 384 down."""
    kept = dropout_of(p).keep(MANY)
    require_independent(kept[lag:], kept[:-lag], p)


@each("p", PROBABILITIES)
@each("position", [1, 16, 1024, 65_536, 249 * 1024])
def test_draws_at_different_positions_are_independent(p: float, position: int) -> None:
    dropout = dropout_of(p)
    here, there = dropout.keep(MANY), dropout.keep(MANY, position)
    require_share(there, p)
    require_independent(here, there, p)
    require_independent(here[:-1], there[1:], p)


@each("step", [1, 1024])
def test_every_entry_is_as_random_from_position_to_position_as_within_one(step: int) -> None:
    """The first entries of many pieces: seeds that lie side by side may not show in them."""
    dropout = dropout_of(0.25)
    first = torch.stack([dropout.keep(torch.empty(16), step * i) for i in range(4000)])
    for column in first.t():
        require_share(column, 0.25)
        require_independent(column[1:], column[:-1], 0.25)
    require_share(first, 0.25)


def test_passes_are_independent_of_each_other() -> None:
    torch.manual_seed(0)
    drawn = [GateDropout.drawn(0.25) for _ in range(200)]
    assert len({dropout.seed for dropout in drawn}) == 200
    rows = torch.stack([dropout.keep(torch.empty(1000)) for dropout in drawn])
    require_share(rows, 0.25)
    require_independent(rows[1:], rows[:-1], 0.25)


def test_the_same_seed_and_position_give_the_same_draw() -> None:
    dropout = GateDropout(28_672, 2**62 - 1)
    for position in (0, 1, 249 * 1024):
        first = dropout.keep(MANY, position)
        torch.manual_seed(position)  # the global generator has no part in it
        assert torch.equal(GateDropout(28_672, 2**62 - 1).keep(MANY.double(), position), first)
    assert not torch.equal(dropout.keep(MANY, 0), dropout.keep(MANY, 1))
    assert not torch.equal(dropout.keep(MANY), GateDropout(28_672, 2**62 - 2).keep(MANY))


def test_a_draw_leaves_the_global_generator_alone() -> None:
    dropout, state = dropout_of(0.25), torch.get_rng_state()
    dropout.keep(MANY)
    assert torch.equal(torch.get_rng_state(), state)


SMALL = Architecture(width=5, embed=6, attention=8, n_bins=2)


def bag_of(n: int) -> Tensor:
    return torch.randn(n, SMALL.width, generator=torch.Generator().manual_seed(2))


def state_of(scale: float = 6.0) -> dict[str, Tensor]:
    """Weights under which dropout matters."""
    return {name: scale * tensor.detach() for name, tensor in untrained_model(SMALL, 1).encoder_state().items()}


def largest_gap(a: Tensor, b: Tensor) -> float:
    """Kolmogorov's and Smirnov's distance of two samples, by the size that 1 in 1,000 equal pairs exceed."""
    a, b = a.double().sort().values, b.double().sort().values
    points = torch.cat([a, b])
    shares = [torch.searchsorted(s, points, right=True) / len(s) for s in (a, b)]
    critical = 1.95 * ((len(a) + len(b)) / (len(a) * len(b))) ** 0.5
    return float((shares[0] - shares[1]).abs().max()) / critical


@each("p", PROBABILITIES)
def test_mean_and_variance_are_those_of_two_dropouts(p: float) -> None:
    """``E = ab`` and ``Var = (ab)^2 (1 / (1 - p)^2 - 1)``."""
    dropout, product = dropout_of(p), 0.7
    found = product * dropout.keep(MANY).double() * dropout.scale
    variance = product**2 * (1 / (1 - p) ** 2 - 1)
    assert float(found.mean()) == pytest.approx(product, abs=5 * (variance / N) ** 0.5)
    assert float(found.var()) == pytest.approx(variance, rel=0.02)


@each("p", PROBABILITIES)
def test_the_score_is_distributed_as_under_two_dropouts(p: float) -> None:
    n, generator = 20_000, torch.Generator().manual_seed(4)
    a, b, c = (torch.randn(24, generator=generator).expand(n, -1) for _ in range(3))
    dropout = dropout_of(p)

    def score(gated: Tensor) -> Tensor:
        return (gated * c).sum(dim=1)

    one = score(a * b * dropout.keep(a) * dropout.scale)
    two = score(functional.dropout(a, p) * functional.dropout(b, p))
    assert largest_gap(one, two) < 1
    assert largest_gap(one, score(functional.dropout(a * b, p))) > 2, "this test could not tell them apart"
    assert largest_gap(one, 1.1 * two) > 1, "nor a wrong scale"


def alone(n: int, bag: Tensor, p: float) -> Tensor:
    state = state_of()
    return torch.cat([gated_attention(state, bag[None], dropout=p)[0] for _ in range(n)])


def together(n: int, bag: Tensor, p: float) -> Tensor:
    return gated_attention(state_of(), bag.expand(n, -1, -1), dropout=p)[0]


def padded(n: int, bag: Tensor, p: float) -> Tensor:
    bags = torch.cat([bag, torch.zeros(2, SMALL.width)]).expand(n, -1, -1)
    return gated_attention(state_of(), bags, (torch.arange(len(bag) + 2) < len(bag)).expand(n, -1), p)[0]


def own_weights(n: int, bag: Tensor, p: float) -> Tensor:
    repeated = {name: tensor.expand(n, *tensor.shape) for name, tensor in state_of().items()}
    return gated_attention(repeated, bag.expand(n, -1, -1), dropout=p)[0]


N_PASSES = 2500


@cache
def passes(p: float) -> Tensor:
    torch.manual_seed(9)
    return torch.stack([pooled(state_of(), bag_of(4), p) for _ in range(N_PASSES)])


@each("way", [alone, together, padded, own_weights])
def test_slide_vectors_are_distributed_as_under_two_dropouts(way: Callable[[int, Tensor, float], Tensor]) -> None:
    torch.manual_seed(8)
    found = way(N_PASSES, bag_of(4), 0.3)
    gaps = [[largest_gap(a, b) for a, b in zip(found.t(), passes(p).t(), strict=True)] for p in (0.3, 0.2)]
    assert max(gaps[0]) < 1
    assert max(gaps[1]) > 1.5, "this test could not tell them apart"


@each("way", [alone, together, padded, own_weights])
def test_without_dropout_nothing_is_drawn_and_nothing_changes(way: Callable[[int, Tensor, float], Tensor]) -> None:
    assert GateDropout.drawn(0.0) is None
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = way(3, bag_of(4), 0.0)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(first, way(3, bag_of(4), 0.0))
    assert len(first.unique(dim=0)) == 1
    torch.testing.assert_close(first[0], pooled(state_of(), bag_of(4), 0.0))


@each("way", [alone, together, padded, own_weights])
def test_passes_are_a_function_of_torch_s_seed(way: Callable[[int, Tensor, float], Tensor]) -> None:
    torch.manual_seed(1)
    first, second = way(3, bag_of(4), 0.25), way(3, bag_of(4), 0.25)
    assert len(torch.cat([first, second]).unique(dim=0)) == 6
    torch.manual_seed(1)
    assert torch.equal(way(3, bag_of(4), 0.25), first)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(way(3, bag_of(4), 0.25), first)
    assert torch.equal(way(3, bag_of(4), 0.25), second), "what was drawn in the fork reached the outside"
