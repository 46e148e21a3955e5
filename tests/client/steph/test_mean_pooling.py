"""The chunked mean of embedded instances against the formula under autograd."""

from __future__ import annotations

import pytest
import torch
from client_builders import SMALL
from each_case import each
from live_memory import LiveMemory
from torch import Tensor
from torch.nn import functional

from fedsteph.client.steph.hypernetwork import MeanEncoder
from fedsteph.client.steph.mean_pooling import mean_pool
from fedsteph.common.model import pooling
from fedsteph.common.model.precision import factors_in

PIECE = 16
SIZES = (1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setitem(pooling._PIECE, "cpu", PIECE)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return numbers(5, 7, seed=1, dtype=dtype).requires_grad_(), numbers(5, seed=2, dtype=dtype).requires_grad_()


def plain(weight: Tensor, bias: Tensor, bag: Tensor) -> Tensor:
    return functional.relu(functional.linear(bag, weight, bias)).mean(dim=0)


def gradients(weight: Tensor, bias: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((z * numbers(len(z), seed=3, dtype=z.dtype)).sum(), (weight, bias), retain_graph=True)


def require_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and float(theirs.abs().max()) > 1e-3
        assert float((ours.double() - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@each("n", SIZES)
@each(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_value_and_gradients_are_the_plain_ones(n, dtype, tolerance):
    weight, bias = layer(dtype)
    bag, wide = numbers(n, 7, dtype=dtype), [tensor.detach().double().requires_grad_() for tensor in layer(dtype)]
    z, expected = mean_pool(weight, bias, bag), plain(*wide, bag.double())
    assert (z.dtype, z.shape) == (dtype, (5,))
    require_close((z.detach(),), (expected.detach(),), tolerance)
    require_close(gradients(weight, bias, z), gradients(*wide, expected), tolerance)


def test_the_gradient_is_the_slope_of_the_value():
    bag = numbers(2 * PIECE + 3, 7)
    assert torch.autograd.gradcheck(lambda *given: mean_pool(*given, bag), layer())


def test_by_hand():
    """h = ReLU(x + (0, -1)): two of three instances pass in the first unit, one in the second, none at exactly 0."""
    weight, bias = torch.eye(2, requires_grad=True), torch.tensor([0.0, -1.0], requires_grad=True)
    bag = torch.tensor([[3.0, 1.0], [-1.0, 7.0], [6.0, 0.0]])
    z = mean_pool(weight, bias, bag)
    assert z.tolist() == [3.0, 2.0]
    (z * torch.tensor([1.0, 10.0])).sum().backward()
    assert weight.grad.flatten().tolist() == pytest.approx([9 / 3, 1 / 3, -10 / 3, 70 / 3])
    assert bias.grad.tolist() == pytest.approx([2 / 3, 10 / 3])


def test_a_unit_that_no_instance_passes_has_no_gradient():
    weight, bias = layer()
    with torch.no_grad():
        bias[2] = -1e6
    z = mean_pool(weight, bias, numbers(PIECE + 5, 7))
    found = gradients(weight, bias, z)
    assert float(z[2]) == 0 and not found[0][2].any() and not found[1][2].any()
    assert bool(found[0][[0, 1, 3, 4]].any(dim=1).all())


def test_a_graph_that_is_kept_gives_the_same_gradient_again():
    weight, bias = layer(torch.float32)
    z = mean_pool(weight, bias, numbers(3 * PIECE + 7, 7, dtype=torch.float32))
    first, second = gradients(weight, bias, z), gradients(weight, bias, z)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each("layout", ["transposed", "every second", "repeated"])
def test_neither_bag_nor_incoming_gradient_need_be_contiguous(layout):
    bag = {
        "transposed": numbers(7, PIECE + 5).t(),
        "every second": numbers(2 * PIECE + 6, 7)[::2],
        "repeated": numbers(1, 7).expand(PIECE + 3, -1),
    }[layout]
    weight, bias = layer()
    assert not bag.is_contiguous()
    found = torch.autograd.grad(mean_pool(weight, bias, bag).sum(), (weight, bias))
    require_close(found, torch.autograd.grad(plain(weight, bias, bag.clone()).sum(), (weight, bias)), 1e-12)


def test_no_gradient_is_asked_of_the_bag():
    weight, bias = layer()
    bag = numbers(5, 7).requires_grad_()
    assert torch.autograd.grad(mean_pool(weight, bias, bag).sum(), bag, allow_unused=True) == (None,)
    assert not mean_pool(weight.detach(), bias.detach(), bag.detach()).requires_grad


def test_bfloat16_factors_change_the_digits_and_not_the_type():
    weight, bias = layer(torch.float32)
    bag = numbers(3 * PIECE + 7, 7, dtype=torch.float32)
    with factors_in(torch.bfloat16):
        z = mean_pool(weight, bias, bag)
    expected = plain(weight, bias, bag)
    assert z.dtype == torch.float32 and not torch.equal(z, mean_pool(weight, bias, bag))
    require_close((z.detach(),), (expected.detach(),), 1e-2)
    found, whole = gradients(weight, bias, z), gradients(weight, bias, expected)
    require_close(found, whole, 2e-2)
    difference = float((found[0] - whole[0]).abs().max())
    assert difference > 1e-5 * float(whole[0].abs().max()), "the gradient is not rounded as the value was"


def test_an_encoder_s_bag_alone_is_its_bag_among_others():
    """The bag alone takes the chunked way; in a stack and under a mask it does not."""
    torch.manual_seed(0)
    encoder, bags = MeanEncoder(SMALL).double(), [numbers(n, SMALL.width, seed=n) for n in (3, PIECE, 3 * PIECE + 7)]
    padded = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True, padding_value=9.0)
    mask = torch.arange(padded.shape[1]) < torch.tensor([[len(bag)] for bag in bags])
    together, alone = encoder(padded, mask), torch.cat([encoder(bag[None]) for bag in bags])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-14)
    weigh = numbers(*together.shape, seed=4)
    found, expected = (torch.autograd.grad((z * weigh).sum(), tuple(encoder.parameters())) for z in (alone, together))
    require_close(found, expected, 1e-12)


UNITS = 5


def per_instance(work) -> float:
    """By how many bytes an instance more raises the peak."""
    peaks = []
    for n in (4 * PIECE, 40 * PIECE):
        bag = numbers(n, 7, dtype=torch.float32)
        with LiveMemory() as memory:
            work(bag)
        peaks.append(memory.peak)
    return (peaks[1] - peaks[0]) / (36 * PIECE)


def test_an_instance_costs_a_byte_per_unit():
    def train(bag: Tensor) -> None:
        weight, bias = layer(torch.float32)
        mean_pool(weight, bias, bag).sum().backward()

    assert per_instance(train) == pytest.approx(UNITS, abs=0.5)


@each("mode", [torch.no_grad, torch.inference_mode])
def test_inference_keeps_nothing(mode):
    """Also of a layer that could learn, as a model's in evaluation does."""

    def infer(bag: Tensor) -> None:
        weight, bias = layer(torch.float32)
        with mode():
            mean_pool(weight, bias, bag)

    assert per_instance(infer) < 0.5
