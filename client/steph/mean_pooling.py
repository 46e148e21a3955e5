"""Computes ``z = mean_i ReLU(W x_i + b)`` of one large bag, forward and backward, in pieces of the bag.

As in :mod:`fedsteph.common.model.pooling`, pieces stay in the processor's cache. The gradient of ``z`` is the same for
every instance, except for ReLU's mask, so only this mask is stored: one byte per entry.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsteph.common.model.pooling import pieces
from fedsteph.common.model.precision import factors, product


def mean_pool(weight: Tensor, bias: Tensor, bag: Tensor) -> Tensor:
    """Embed and average one bag: ``weight (embed, d), bias (embed,), bag (n_instances, d) -> (embed,)``.

    No gradient flows to the bag.
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
        # Only ReLU's mask differs between instances, so the gradient is factored out of the sum.
        return None, None, None, weight * share.unsqueeze(1), count * share
