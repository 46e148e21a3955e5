"""bfloat16 factors: what is rounded, what is not, and for how long."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from each_case import each
from torch import Tensor
from torch.nn import functional

from fedsteph.common.model.abmil import gated_attention
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.model.precision import factors, factors_in, linear, product

HALF_A_STEP = 2.0**-8  # relative, between neighbours of bfloat16


def matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(tensor: Tensor) -> np.ndarray:
    """Factors to 8 significant bits, ties to even, by their bits; in float64."""
    bits = tensor.detach().contiguous().numpy().view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


@each(("n", "k", "m"), [(1, 1, 1), (7, 33, 5), (64, 512, 48)])
def test_a_product_of_rounded_factors(n: int, k: int, m: int) -> None:
    """Sums run in float32 inside; what comes out may itself have been rounded once."""
    a, b = matrix(n, k), matrix(k, m, seed=1)
    expected = rounded(a) @ rounded(b)
    found = product(a, b, torch.bfloat16)
    assert found.dtype == torch.float32
    inside = k * 2.0**-24 * (np.abs(rounded(a)) @ np.abs(rounded(b)))
    assert (np.abs(found.double().numpy() - expected) <= HALF_A_STEP * np.abs(expected) + 2 * inside).all()
    if k > 1:
        assert np.abs(a.double().numpy() @ b.double().numpy() - expected).max() > 1e-3, "the factors are not rounded"


def test_a_product_by_hand() -> None:
    """1 + 2^-9 is nearer to 1 than to the next number, 1 + 2^-7; 2^-9 itself is representable."""
    one, column = torch.tensor([[1 + 2.0**-9, 2.0**-9]]), torch.tensor([[1.0], [1.0]])
    assert product(one, torch.eye(2), torch.bfloat16).tolist() == [[1.0, 2.0**-9]]
    assert product(one, torch.eye(2), torch.float32).tolist() == [[1 + 2.0**-9, 2.0**-9]]
    assert product(one, column, torch.float32).tolist() == [[1 + 2.0**-8]]


@each("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_is_added_to_each_row_in_full(dtype: torch.dtype) -> None:
    a, b, bias = matrix(6, 5), matrix(5, 4, seed=1), torch.tensor([1000.0, 1000.25, -1000.125, 2.0**-20])
    found = product(a, b, dtype, bias=bias)
    torch.testing.assert_close(found, product(a, b, dtype) + bias, rtol=1e-6, atol=1e-4)
    assert torch.equal(product(torch.zeros(2, 5), b, dtype, bias=bias), bias.expand(2, -1))
    assert bias.tolist() == [1000.0, 1000.25, -1000.125, 2.0**-20]


@each("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_over_pieces_stays_in_float32(dtype: torch.dtype) -> None:
    """256 and 1,000 quarters: in bfloat16, whose neighbours there lie 2 apart, it would stay at 256."""
    total = torch.full((1, 1), 256.0)
    for _ in range(1000):
        found = product(torch.tensor([[0.5]]), torch.tensor([[0.5]]), dtype, add_to=total)
        assert found is total
    assert total.tolist() == [[506.0]]


@each("add", [False, True])
def test_float64_is_left_alone_where_nothing_is_rounded(add: bool) -> None:
    a, b = matrix(6, 5).double(), matrix(5, 4, seed=1).double()
    extra = {"add_to": torch.zeros(6, 4, dtype=torch.float64)} if add else {}
    found = product(a, b, torch.float32, **extra)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), a.numpy() @ b.numpy(), rtol=1e-13, atol=1e-14)


def test_nothing_is_rounded_unless_a_block_says_so() -> None:
    assert factors() is torch.float32
    with factors_in(torch.bfloat16):
        assert factors() is torch.bfloat16
        with factors_in(torch.float32):
            assert factors() is torch.float32
        assert factors() is torch.bfloat16
    assert factors() is torch.float32


def test_a_block_ends_with_its_error() -> None:
    with factors_in(torch.bfloat16):
        with pytest.raises(ZeroDivisionError), factors_in(torch.float32):
            raise ZeroDivisionError
        assert factors() is torch.bfloat16
    with pytest.raises(ZeroDivisionError), factors_in(torch.bfloat16):
        raise ZeroDivisionError
    assert factors() is torch.float32


def test_another_thread_is_not_in_the_block() -> None:
    seen = []
    with factors_in(torch.bfloat16):
        thread = threading.Thread(target=lambda: seen.append(factors()))
        thread.start()
        thread.join()
    assert seen == [torch.float32]


def gradients(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((out * matrix(*out.shape, seed=9)).sum(), (x, weight, bias))


def require_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_linear_and_its_gradient() -> None:
    x, weight, bias = (matrix(*s, seed=i).requires_grad_() for i, s in enumerate([(3, 9, 20), (7, 20), (7,)]))
    plain = functional.linear(x, weight, bias)
    assert torch.equal(linear(x, weight, bias), plain)
    expected = gradients(x, weight, bias, plain)
    with factors_in(torch.bfloat16):
        out = linear(x, weight, bias)
    assert out.shape == plain.shape
    require_close(out, plain, 1e-2)
    assert float((out - plain).detach().abs().max()) > 1e-4, "nothing was rounded"
    for found, wanted in zip(gradients(x, weight, bias, out), expected, strict=True):
        require_close(found, wanted, 1e-2)


SMALL = Architecture(width=40, embed=24, attention=16, n_bins=4)
MASK = torch.arange(30) < torch.tensor([[30], [17], [4]])


def encoder(copies: int = 0) -> dict[str, Tensor]:
    state = {name: 3 * tensor.detach() for name, tensor in untrained_model(SMALL, 3).encoder_state().items()}
    if copies:
        state = {name: tensor.expand(copies, *tensor.shape).clone() for name, tensor in state.items()}
    return {name: tensor.requires_grad_() for name, tensor in state.items()}


WAYS = {
    "alone": (0, matrix(1, 30, 40), None),
    "alone, own weights": (1, matrix(1, 30, 40), None),
    "together": (0, matrix(3, 30, 40), None),
    "padded": (0, matrix(3, 30, 40), MASK),
    "padded, own weights": (3, matrix(3, 30, 40), MASK),
}


@each("way", WAYS)
def test_an_encoder_under_bfloat16_is_close_and_gives_float32(way: str) -> None:
    copies, bags, mask = WAYS[way]
    theta = encoder(copies)
    plain_z, plain_attention = gated_attention(theta, bags, mask)
    with factors_in(torch.bfloat16):
        z, attention = gated_attention(theta, bags, mask)
    require_close(z, plain_z, 1e-2)
    require_close(attention, plain_attention, 5e-2)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(len(bags)))
    assert float((z - plain_z).detach().abs().max()) > 1e-5, "nothing was rounded"
    found, expected = (torch.autograd.grad((out**2).sum(), tuple(theta.values())) for out in (z, plain_z))
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max()) <= 3e-2 * max(float(theirs.abs().max()), 0.05 * largest)


@each("way", WAYS)
def test_a_gradient_is_rounded_as_its_forward_pass_was(way: str) -> None:
    """A backward pass runs outside the block, or inside another one."""
    copies, bags, mask = WAYS[way]
    theta, found = encoder(copies), []
    for forward, backward in [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)] * 2 + [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
    ]:
        with factors_in(forward):
            z, _ = gated_attention(theta, bags, mask)
        with factors_in(backward):
            found.append(torch.autograd.grad((z * matrix(SMALL.embed)).sum(), tuple(theta.values())))
    for a, b in [(0, 1), (0, 2), (1, 3), (4, 5)]:
        assert all(torch.equal(x, y) for x, y in zip(found[a], found[b], strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(found[0][:-1], found[4][:-1], strict=True))
