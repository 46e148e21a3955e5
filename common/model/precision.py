"""The precision of large matrix products: float32, or bfloat16 as with autocast.

In bfloat16 both factors and the product are rounded, and the product is converted back to the weights' dtype. Only the
products over a bag's instances are affected. Weights, sums, heads, losses and the optimiser stay in float32.
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
    """Round the factors of the matrix products in this block to ``dtype``, also in their backward pass."""
    token = _factors.set(dtype)
    try:
        yield
    finally:
        _factors.reset(token)


def factors() -> torch.dtype:
    """The current dtype of factors. Call it in the forward pass: the backward pass runs in another context."""
    return _factors.get()


def product(
    a: Tensor, b: Tensor, dtype: torch.dtype, *, bias: Tensor | None = None, add_to: Tensor | None = None
) -> Tensor:
    """``a @ b`` of ``(n, k)`` and ``(k, m)``, factors and product rounded; plus ``bias``, or added to ``add_to``."""
    if dtype is torch.float32:
        if add_to is not None:
            return add_to.addmm_(a, b)
        return a @ b if bias is None else torch.addmm(bias, a, b)
    rounded = (a.to(dtype) @ b.to(dtype)).to(a.dtype)
    if add_to is not None:
        return add_to.add_(rounded)
    return rounded if bias is None else rounded.add_(bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight^T + bias``, differentiable, with factors rounded to the dtype of :func:`factors_in`.

    Args:
        x: ``(..., n_in)``, or ``(n_bags, n_instances, n_in)`` with weights per bag.
        weight, bias: ``(n_out, n_in)`` and ``(n_out,)``, each with a leading ``n_bags`` for weights per bag.
    """
    dtype = factors()
    if weight.dim() == 2:
        if dtype is torch.float32:
            return functional.linear(x, weight, bias)
        return functional.linear(x.to(dtype), weight.to(dtype)).to(x.dtype) + bias
    if dtype is torch.float32:
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
    return torch.bmm(x.to(dtype), weight.to(dtype).transpose(1, 2)).to(x.dtype) + bias.unsqueeze(1)
