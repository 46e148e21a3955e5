"""``z = mean_i ReLU(W x_i + b)`` of one large bag, forward and backward, a piece of the bag at a time.

As in :mod:`fedsteph.common.model.pooling`: pieces stay in a cache. The gradient of ``z`` reaches every instance alike,
where ReLU let it through, so all that is kept of an instance is which of its entries that were: one byte each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsteph.common.model.pooling import pieces
from fedsteph.common.model.precision import factors, product


def mean_pool(weight: Tensor, bias: Tensor, bag: Tensor) -> Tensor:
    """Embed and average one bag.

    Args:
        weight: ``(embed, d)``.
        bias: ``(embed,)``.
        bag: ``(n_instances, d)``; a constant, to which no gradient flows.

    Returns:
        ``(embed,)``.
    """
    learning = torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad)
    z: Tensor = _MeanPool.apply(bag, factors(), learning, weight, bias)  # type: ignore[no-untyped-call]
    return z


class _MeanPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bag: Tensor, dtype: torch.dtype, learning: bool, weight: Tensor, bias: Tensor) -> Tensor:
        total, positive = torch.zeros_like(bias), list[Tensor]()
        for _, instances in pieces(bag):
            h = product(instances, weight.t(), dtype, bias=bias).relu_()
            total += h.sum(dim=0)
            if learning:
                positive.append((h > 0).view(torch.uint8))
        if learning:
            ctx.save_for_backward(bag)
            ctx.positive, ctx.dtype = positive, dtype
        return total / len(bag)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (bag,) = ctx.saved_tensors
        share = g / len(bag)
        weight, count = share.new_zeros(len(share), bag.shape[1]), torch.zeros_like(share)
        for (_, instances), positive in zip(pieces(bag), ctx.positive, strict=True):
            let_through = positive.to(share.dtype)
            product(let_through.t(), instances, ctx.dtype, add_to=weight)
            count += let_through.sum(dim=0)
        # ReLU's mask is of an instance, the gradient is of the bag: it comes out of the sum.
        return None, None, None, weight * share.unsqueeze(1), count * share
