"""The precision of large matrix products: the weights' own, or bfloat16 as under autocast.

Factors are rounded, the product comes out rounded once more and goes on in the weights' precision. Only the products
over a bag's instances are concerned; weights, sums, heads, losses and the optimiser stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional

FACTORS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_factors: ContextVar[torch.dtype] = ContextVar("factors", default=torch.float32)


@contextmanager
def factors_in(dtype: torch.dtype) -> Iterator[None]:
    """Let the products that are begun in this block, and their gradients, round their factors to ``dtype``."""
    token = _factors.set(dtype)
    try:
        yield
    finally:
        _factors.reset(token)


def factors() -> torch.dtype:
    """What factors are rounded to here; a backward pass runs elsewhere, so ask in the forward pass."""
    return _factors.get()


def product(
    a: Tensor, b: Tensor, dtype: torch.dtype, *, bias: Tensor | None = None, add_to: Tensor | None = None
) -> Tensor:
    """``a @ b``, plus ``bias`` to each row or in place to ``add_to``; factors and product are rounded to ``dtype``."""
    if dtype is torch.float32:
        if add_to is not None:
            return add_to.addmm_(a, b)
        return a @ b if bias is None else torch.addmm(bias, a, b)
    rounded = (a.to(dtype) @ b.to(dtype)).to(a.dtype)
    if add_to is not None:
        return add_to.add_(rounded)
    return rounded if bias is None else rounded.add_(bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight^T + bias`` with factors rounded as :func:`factors_in` says, and its gradient.

    Args:
        weight, bias: one for all of ``x``, or each with a leading ``n_bags`` dimension as ``x`` has.
    """
    dtype = factors()
    if weight.dim() == 2:
        if dtype is torch.float32:
            return functional.linear(x, weight, bias)
        return functional.linear(x.to(dtype), weight.to(dtype)).to(x.dtype) + bias
    if dtype is torch.float32:
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
    return torch.bmm(x.to(dtype), weight.to(dtype).transpose(1, 2)).to(x.dtype) + bias.unsqueeze(1)
