"""Chunked gated-attention pooling against the plain formula under autograd, whose gradient is written by nobody."""

from __future__ import annotations

import pytest
import torch
from each_case import each
from live_memory import LiveMemory
from plain_steph import ENCODER as LAYERS
from plain_steph import pooled
from torch import Tensor

from fedsteph.common.model import pooling
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.dropout import GateDropout
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.model.pooling import pool

PIECE = 16
NAMES = tuple(f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias"))
SIZES = (1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7)
SMALL = Architecture(width=7, embed=6, attention=5, n_bins=4)
ALWAYS, NEVER = 0, 10**9  # above how many instances activations are computed again


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pooling._PIECE, "cpu", PIECE)


@pytest.fixture(params=[NEVER, ALWAYS], ids=["kept", "recomputed"])
def _recompute_above(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", request.param)


both_ways = pytest.mark.usefixtures("_recompute_above")


def weights(
    seed: int = 0, dtype: torch.dtype = torch.float64, architecture: Architecture = SMALL
) -> tuple[Tensor, ...]:
    """Ten times PyTorch's default, so that tanh, sigmoid and the softmax all bend."""
    state = untrained_model(architecture, seed).encoder_state()
    return tuple((10 * state[name].detach()).to(dtype).requires_grad_() for name in NAMES)


def bag_of(n: int, seed: int = 0, dtype: torch.dtype = torch.float64, width: int = SMALL.width) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def direction(dtype: torch.dtype = torch.float64, embed: int = SMALL.embed) -> Tensor:
    return torch.randn(embed, generator=torch.Generator().manual_seed(99)).to(dtype)


def gradients(theta: tuple[Tensor, ...], z: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((z * direction(z.dtype, len(z))).sum(), theta)


def plain(theta: tuple[Tensor, ...], bag: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Slide vector and gradients in float64, by autograd."""
    wide = tuple(tensor.detach().double().requires_grad_() for tensor in theta)
    z = pooled(dict(zip(NAMES, wide, strict=True)), bag.double(), 0.0)
    return z.detach(), gradients(wide, z)


def plain_attention(theta: tuple[Tensor, ...], bag: Tensor) -> Tensor:
    embed, embed_bias, V, V_bias, U, U_bias, c, c_bias = (tensor.detach().double() for tensor in theta)
    h = (bag.double() @ embed.t() + embed_bias).clamp(min=0)
    gated = torch.tanh(h @ V.t() + V_bias) / (1 + torch.exp(-(h @ U.t() + U_bias)))
    return torch.softmax((gated @ c.t() + c_bias).squeeze(1), dim=0)


def require_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    """To ``tolerance`` of each tensor's largest entry.

    By the formula some are 0, which is rounding here: all scores' common shift, and every score of a lone instance.
    """
    whole = max(float(tensor.abs().max()) for tensor in expected)
    assert whole > 1e-3
    for name, ours, theirs in zip(NAMES, found, expected, strict=True):
        assert ours.shape == theirs.shape
        largest = max(float(theirs.abs().max()), 0.1 * whole)
        difference = float((ours.double() - theirs).abs().max())
        assert difference <= tolerance * largest, name


@both_ways
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_value_and_every_gradient_are_the_plain_ones(dtype: torch.dtype, tolerance: float, n: int) -> None:
    theta, bag = weights(dtype=dtype), bag_of(n, dtype=dtype)
    z, attention = pool(theta, bag, None)
    expected, expected_gradients = plain(theta, bag)
    assert (z.dtype, z.shape) == (dtype, (SMALL.embed,)) and (attention.dtype, attention.shape) == (dtype, (n,))
    assert float((z.detach().double() - expected).abs().max()) <= tolerance * float(expected.abs().max())
    torch.testing.assert_close(attention.double(), plain_attention(theta, bag), rtol=20 * tolerance, atol=tolerance)
    require_close(gradients(theta, z), expected_gradients, tolerance)


@both_ways
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_gradient_under_one_draw_is_the_slope_of_the_value(p: float) -> None:
    """Finite differences through every piece, whatever the draw's layout."""
    torch.manual_seed(3)
    dropout = GateDropout.drawn(p)
    theta, bag = weights(architecture=Architecture(3, 4, 3, 2)), bag_of(2 * PIECE + 3, width=3)
    assert torch.autograd.gradcheck(lambda *given: pool(given, bag, dropout)[0], theta)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recomputed_gradients_are_the_kept_ones_bit_for_bit(monkeypatch, dtype, n) -> None:
    theta, bag, dropout = weights(dtype=dtype), bag_of(n, dtype=dtype), GateDropout.drawn(0.25)
    found = []
    for above in (NEVER, ALWAYS, n, n - 1):
        monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", above)
        z, attention = pool(theta, bag, dropout)
        found.append((z.detach(), attention, *gradients(theta, z)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    if n > 1:
        assert not torch.equal(found[0][0], pool(theta, bag, None)[0].detach()), "nothing was dropped"


@both_ways
def test_pieces_do_not_share_a_draw() -> None:
    """A bag of one instance, repeated: without dropout all weigh the same, with it no two pieces look alike."""
    theta, bag = weights(), bag_of(1).expand(4 * PIECE, -1)
    alike = pool(theta, bag, None)[1].reshape(4, PIECE)
    torch.testing.assert_close(alike, torch.full_like(alike, 1 / (4 * PIECE)))
    rows = pool(theta, bag, GateDropout.drawn(0.4))[1].reshape(4, PIECE)
    assert not any(torch.allclose(rows[i], rows[j]) for i in range(4) for j in range(i))


def scoring(scores: Tensor, shift: float = 0.0) -> tuple[tuple[Tensor, ...], Tensor]:
    """Weights and a bag whose instance i has the score ``scores[i] + shift`` and ``h = (sign's parts, i, 1)``.

    ``tanh`` saturates at the sign of the score, ``sigmoid`` at 1; so scores are of one magnitude or 0.
    """
    size = float(scores.abs().max()) or 1.0
    sign = scores.sign()
    columns = [
        sign.clamp(min=0),
        (-sign).clamp(min=0),
        torch.arange(len(scores)) / len(scores),
        torch.ones(len(scores)),
    ]
    bag = torch.stack(columns, dim=1)
    eye, V = torch.eye(4), torch.tensor([[40.0, -40.0, 0.0, 0.0]])
    theta = (eye, torch.zeros(4), V, torch.zeros(1), torch.zeros(1, 4), torch.full((1,), 50.0))
    theta += (torch.full((1, 1), size), torch.full((1,), shift))
    return tuple(tensor.clone().requires_grad_() for tensor in theta), bag


@both_ways
@pytest.mark.parametrize("place", [0, 5, PIECE - 1, PIECE, 2 * PIECE + 3, 3 * PIECE + 6])
@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_a_score_far_above_the_others_takes_all(place: int, shift: float) -> None:
    scores = torch.zeros(3 * PIECE + 7)
    scores[place] = 1e4
    theta, bag = scoring(scores, shift)
    z, attention = pool(theta, bag, None)
    assert torch.equal(attention, (scores > 0).float()) and torch.equal(z.detach(), bag[place])
    embed, *others = gradients(theta, z)
    torch.testing.assert_close(embed, torch.outer(direction(z.dtype, 4) * (bag[place] > 0), bag[place]))
    assert not any(bool(gradient.any()) for gradient in others[1:])


@both_ways
def test_two_far_above_the_others_share_it() -> None:
    scores = torch.zeros(3 * PIECE)
    scores[[3, 2 * PIECE + 1]] = 1e4
    theta, bag = scoring(scores)
    z, attention = pool(theta, bag, None)
    assert torch.equal(attention, (scores > 0) / 2)
    torch.testing.assert_close(z.detach(), (bag[3] + bag[2 * PIECE + 1]) / 2)
    require_close(gradients(theta, z), plain(theta, bag)[1], 1e-5)


@both_ways
@pytest.mark.parametrize(("size", "shift"), [(-1e4, 0.0), (1e4, 0.0), (0.0, -1e30), (-1e4, -1e30)])
def test_scores_that_are_all_alike_weigh_all_alike(size: float, shift: float) -> None:
    theta, bag = scoring(torch.full((3 * PIECE + 7,), size), shift)
    z, attention = pool(theta, bag, None)
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / len(bag)))
    torch.testing.assert_close(z.detach(), bag.mean(dim=0))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(theta, z))


@both_ways
@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
def test_a_largest_score_that_moves_in_every_piece(order: int) -> None:
    """The running softmax scales what it has so far, or the new piece."""
    theta, n = weights(dtype=torch.float32), 3 * PIECE + 7
    with torch.no_grad():
        theta[6].mul_(20)
    bag = bag_of(n, dtype=torch.float32)
    bag = bag[plain_attention(theta, bag).argsort(descending=order < 0)]
    z, attention = pool(theta, bag, None)
    expected, expected_gradients = plain(theta, bag)
    torch.testing.assert_close(z.detach().double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(attention.double(), plain_attention(theta, bag), rtol=2e-4, atol=1e-30)
    require_close(gradients(theta, z), expected_gradients, 1e-4)


@each("n", [*SIZES, 50 * PIECE])
def test_attention_sums_to_1(n: int) -> None:
    _, attention = pool(weights(dtype=torch.float32), bag_of(n, dtype=torch.float32), GateDropout.drawn(0.25))
    assert float(attention.min()) >= 0 and float(attention.double().sum()) == pytest.approx(1.0, abs=1e-6)


@both_ways
def test_the_order_of_instances_does_not_matter() -> None:
    theta, bag = weights(), bag_of(3 * PIECE + 7)
    order = torch.randperm(len(bag), generator=torch.Generator().manual_seed(1))
    (z, attention), (z_mixed, attention_mixed) = pool(theta, bag, None), pool(theta, bag[order], None)
    torch.testing.assert_close(z_mixed, z, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(attention_mixed, attention[order], rtol=1e-12, atol=0)
    require_close(gradients(theta, z_mixed), gradients(theta, z), 1e-12)


@both_ways
def test_gradients_flow_to_the_weights_that_ask_and_to_nothing_else() -> None:
    theta, bag = weights(), bag_of(PIECE + 1).requires_grad_()
    z, attention = pool(theta, bag, None)
    assert not attention.requires_grad
    expected = gradients(theta, z)
    assert torch.autograd.grad(pool(theta, bag, None)[0].sum(), bag, allow_unused=True) == (None,)
    for i, alone in enumerate(theta):
        one = tuple(tensor if j == i else tensor.detach() for j, tensor in enumerate(theta))
        (found,) = gradients((alone,), pool(one, bag.detach(), None)[0])
        assert torch.equal(found, expected[i])
    assert not pool(tuple(tensor.detach() for tensor in theta), bag.detach(), None)[0].requires_grad


@both_ways
def test_a_graph_that_is_kept_gives_the_same_gradient_again() -> None:
    theta, bag = weights(dtype=torch.float32), bag_of(3 * PIECE + 7, dtype=torch.float32)
    z, _ = pool(theta, bag, GateDropout.drawn(0.25))
    loss = (z * direction(z.dtype)).sum()
    first, second, third = (torch.autograd.grad(loss, theta, retain_graph=True) for _ in range(3))
    for again in (second, third):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@both_ways
def test_two_bags_under_the_same_weights_add_up() -> None:
    """Both graphs alive at once, as within a step of a loss that needs them all."""
    theta, bags = weights(), [bag_of(PIECE + 5, seed=1), bag_of(3 * PIECE, seed=2)]
    z = [pool(theta, bag, None)[0] for bag in bags]
    expected = [plain(theta, bag)[1] for bag in bags]
    found = gradients(theta, z[0] + z[1])
    require_close(found, tuple(a + b for a, b in zip(*expected, strict=True)), 1e-11)


@both_ways
def test_gradients_are_tensors_of_their_own() -> None:
    """What is added to one of them later, or what scales it, does not reach another."""
    theta, bag = weights(), bag_of(PIECE + 5)
    z, _ = pool(theta, bag, None)
    z.sum().backward()
    before = [tensor.grad.clone() for tensor in theta]
    for i, tensor in enumerate(theta):
        tensor.grad.zero_()
        for j in range(i + 1, len(theta)):
            assert torch.equal(theta[j].grad, before[j])
    pool(theta, bag, None)[0].sum().backward()
    assert all(torch.equal(tensor.grad, first) for tensor, first in zip(theta, before, strict=True))


@both_ways
@pytest.mark.parametrize("layout", ["transposed", "every second", "repeated", "columns"])
def test_a_bag_need_not_be_contiguous(layout: str) -> None:
    bag = {
        "transposed": bag_of(SMALL.width, width=PIECE + 5).t(),
        "every second": bag_of(2 * PIECE + 6)[::2],
        "repeated": bag_of(1).expand(PIECE + 3, -1),
        "columns": bag_of(PIECE + 3, width=2 * SMALL.width)[:, ::2],
    }[layout]
    theta = weights()
    assert not bag.is_contiguous()
    (z, attention), (copied, copied_attention) = pool(theta, bag, None), pool(theta, bag.contiguous(), None)
    torch.testing.assert_close((z, attention), (copied, copied_attention), rtol=1e-12, atol=1e-14)
    require_close(gradients(theta, z), plain(theta, bag)[1], 1e-11)


@both_ways
def test_the_gradient_that_comes_in_need_not_be_contiguous() -> None:
    """That of a sum is one number, repeated."""
    theta, bag = weights(dtype=torch.float32), bag_of(PIECE + 5, dtype=torch.float32)
    found = torch.autograd.grad(pool(theta, bag, None)[0].sum(), theta)
    expected = torch.autograd.grad((pool(theta, bag, None)[0] * torch.ones(SMALL.embed)).sum(), theta)
    require_close(found, expected, 1e-6)


def test_weights_changed_before_the_gradient_are_refused() -> None:
    theta = weights()
    z, _ = pool(theta, bag_of(PIECE + 5), None)
    with torch.no_grad():
        theta[2].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_a_second_derivative_is_refused() -> None:
    theta = weights()
    (first, *_) = torch.autograd.grad(pool(theta, bag_of(5), None)[0].square().sum(), theta, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


ONE_FLOAT = 4
ACTIVATIONS = SMALL.embed + 2 * SMALL.attention  # floats that a kept instance takes


def per_instance(work) -> float:
    """By how many bytes an instance more raises the peak of what ``work`` makes of a bag."""
    peaks = []
    for n in (4 * PIECE, 40 * PIECE):
        bag = bag_of(n, dtype=torch.float32)
        with LiveMemory() as memory:
            work(bag)
        peaks.append(memory.peak)
    return (peaks[1] - peaks[0]) / (36 * PIECE)


def train_on(bag: Tensor) -> None:
    theta = weights(dtype=torch.float32)
    pool(theta, bag, GateDropout.drawn(0.25))[0].sum().backward()


def test_under_recomputation_an_instance_costs_its_score_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", ALWAYS)
    assert per_instance(train_on) <= 2 * ONE_FLOAT
    monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", NEVER)
    assert per_instance(train_on) >= ACTIVATIONS * ONE_FLOAT, "this test would not see what it is about"


def test_recomputation_begins_above_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, live = weights(dtype=torch.float32), {}
    monkeypatch.setitem(pooling._RECOMPUTE_ABOVE, "cpu", 3 * PIECE)
    for n in (3 * PIECE, 3 * PIECE + 1):
        bag = bag_of(n, dtype=torch.float32)
        with LiveMemory() as memory:
            z, _ = pool(theta, bag, None)
            live[n] = memory.live
        assert z.requires_grad
    assert live[3 * PIECE] > 3 * PIECE * ACTIVATIONS * ONE_FLOAT > live[3 * PIECE + 1]


@each("mode", [torch.no_grad, torch.inference_mode])
def test_inference_keeps_no_activations(mode) -> None:
    """Also of weights that could learn, as those of a model in evaluation do."""

    def infer(bag: Tensor) -> None:
        theta = weights(dtype=torch.float32)
        with mode():
            pool(theta, bag, None)

    assert per_instance(infer) <= 2 * ONE_FLOAT


def test_a_frozen_model_keeps_no_activations() -> None:
    theta = tuple(tensor.detach() for tensor in weights(dtype=torch.float32))
    assert per_instance(lambda bag: pool(theta, bag, None)) <= 2 * ONE_FLOAT


def test_activations_are_let_go_by_the_backward_pass() -> None:
    """Even while the slide vector, and its graph with it, is still at hand."""
    theta, bag, left = weights(dtype=torch.float32), bag_of(40 * PIECE, dtype=torch.float32), []
    for _ in range(2):
        for tensor in theta:
            tensor.grad = torch.zeros_like(tensor)
        with LiveMemory() as memory:
            z, _ = pool(theta, bag, None)
            left.append(memory.live)
            z.sum().backward()
            left.append(memory.live)
    assert left[0] > len(bag) * ACTIVATIONS * ONE_FLOAT and left[1] < 4 * len(bag) * ONE_FLOAT and left[2:] == left[:2]
