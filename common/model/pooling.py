"""Gated-attention pooling of one large bag, with forward and backward pass computed piece by piece.

With autograd, the activations of a bag of 10,000 instances do not stay in a CPU cache, and those of 250,000 instances
do not fit into a laptop's memory. So the forward and backward pass are written by hand over pieces that fit into the
cache: an online softmax combines the sums of the pieces, and the gradients are summed over the same pieces. Above
``_RECOMPUTE_ABOVE`` instances the activations are not stored but recomputed in the backward pass with the same dropout
mask. The result equals the direct computation up to the order of float32 sums.

With softmax weights ``p_i``, ``z = sum_i p_i h_i`` and the gradient ``g`` of ``z``, the gradient of the score of
instance i is ``p_i (g^T h_i - g^T z)``; the rest is the chain rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsteph.common.model.dropout import GateDropout
from fedsteph.common.model.precision import factors, product

# Instances; on a CPU 20 MB of activations with widths 512 and 384. An Apple GPU wants large products as others do, but
# has no memory of its own.
_PIECE = {"cpu": 4096, "cuda": 65_536, "mps": 65_536}
_RECOMPUTE_ABOVE = {"cpu": 32_768, "cuda": 262_144, "mps": 65_536}  # instances; 180 MB, 1.4 GB, 360 MB of activations


@dataclass(frozen=True)
class _Weights:
    """The 8 encoder tensors, with V stacked on U, and settings; ``score`` includes dropout's scale."""

    embed: Tensor
    embed_bias: Tensor
    branches: Tensor
    branches_bias: Tensor
    score: Tensor  # (attention,)
    score_bias: Tensor
    scale: float
    dropout: GateDropout | None
    dtype: torch.dtype


@dataclass(frozen=True)
class _Piece:
    """Activations of a piece: ``h`` (n, embed); ``tanh``, ``sigmoid`` and the dropout mask ``keep`` (n, attention)."""

    h: Tensor
    tanh: Tensor
    sigmoid: Tensor
    keep: Tensor | None


def pool(theta: tuple[Tensor, ...], bag: Tensor, dropout: GateDropout | None) -> tuple[Tensor, Tensor]:
    """Pool one bag into one vector.

    Returns the bag's vector ``(embed,)``, and the attention ``(n_instances,)``, which is not differentiable.

    Args:
        theta: weight and bias of embed, V, U and c, in this order.
        bag: ``(n_instances, d)``; it gets no gradient.
        dropout: dropout of the gated product of both branches; None for no dropout.
    """
    learning = torch.is_grad_enabled() and any(weight.requires_grad for weight in theta)
    z, attention = _Pool.apply(bag, dropout, factors(), learning, *theta)  # type: ignore[no-untyped-call]
    return z, attention


def pieces(bag: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Pieces of a bag ``(n_instances, d)`` that fit into a cache, each with the index of its first instance."""
    size = _PIECE[bag.device.type]
    for start in range(0, len(bag), size):
        yield start, bag[start : start + size]


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, bag: Tensor, dropout: GateDropout | None, dtype: torch.dtype, learning: bool, *theta: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights = _weights(theta, dropout, dtype)
        keeping = learning and len(bag) <= _RECOMPUTE_ABOVE[bag.device.type]
        kept: list[_Piece] = []
        scores = bag.new_empty(len(bag))
        largest = bag.new_full((), float("-inf"))
        # In float64, because the rounding errors of a hundred pieces would add up in float32. An Apple GPU has no
        # float64, and a few large pieces.
        wide = torch.float32 if bag.device.type == "mps" else torch.float64
        mass, total = (torch.zeros(n, dtype=wide, device=bag.device) for n in ((), len(weights.embed)))
        for start, instances in pieces(bag):
            piece = _activations(weights, instances, start)
            score = torch.addmm(weights.score_bias, _gated(piece), weights.score.unsqueeze(1)).squeeze(1)
            scores[start : start + len(instances)] = score
            rising = torch.maximum(largest, score.max())
            shrink, share = torch.exp(largest - rising), torch.exp(score - rising)
            mass = mass * shrink + share.sum()
            total = total * shrink + (share.unsqueeze(0) @ piece.h).squeeze(0)
            largest = rising
            if keeping:
                kept.append(piece)
        attention = scores.sub_(largest).exp_().div_(mass)
        z = (total / mass).to(bag.dtype)
        if learning:
            ctx.save_for_backward(bag, attention, z, *theta)
            ctx.dropout, ctx.dtype, ctx.kept = dropout, dtype, kept
        ctx.mark_non_differentiable(attention)
        return z, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        bag, attention, z, *theta = ctx.saved_tensors
        dtype, weights = ctx.dtype, _weights(theta, ctx.dropout, ctx.dtype)
        embed, branches, score = (torch.zeros_like(w) for w in (weights.embed, weights.branches, weights.score))
        embed_bias, branches_bias = torch.zeros_like(weights.embed_bias), torch.zeros_like(weights.branches_bias)
        score_bias = torch.zeros_like(weights.score_bias)
        level = torch.dot(g, z)
        ctx.kept.reverse()
        for start, instances in pieces(bag):
            piece = ctx.kept.pop() if ctx.kept else _activations(weights, instances, start)
            share = attention[start : start + len(instances)]
            d_score = (torch.mv(piece.h, g) - level) * share
            score.addmv_(_gated(piece).t(), d_score)
            score_bias += d_score.sum()
            d_branches = _through_gate(piece, torch.outer(d_score, weights.score))
            product(d_branches.t(), piece.h, dtype, add_to=branches)
            branches_bias += d_branches.sum(dim=0)
            d_h = product(d_branches, weights.branches, dtype).addr_(share, g)
            d_h = torch.ops.aten.threshold_backward(d_h, piece.h, 0)  # gradient of the ReLU
            product(d_h.t(), instances, dtype, add_to=embed)
            embed_bias += d_h.sum(dim=0)
        V, U = branches.chunk(2)
        V_bias, U_bias = branches_bias.chunk(2)
        score = (score * weights.scale).unsqueeze(0)
        return None, None, None, None, embed, embed_bias, V, V_bias, U, U_bias, score, score_bias


def _weights(theta: Any, dropout: GateDropout | None, dtype: torch.dtype) -> _Weights:
    embed, embed_bias, V, V_bias, U, U_bias, score, score_bias = theta
    scale = dropout.scale if dropout else 1.0
    branches, branches_bias = torch.cat([V, U]), torch.cat([V_bias, U_bias])
    return _Weights(embed, embed_bias, branches, branches_bias, score[0] * scale, score_bias, scale, dropout, dtype)


def _activations(weights: _Weights, instances: Tensor, start: int) -> _Piece:
    h = product(instances, weights.embed.t(), weights.dtype, bias=weights.embed_bias).relu_()
    both = product(h, weights.branches.t(), weights.dtype, bias=weights.branches_bias)
    V, U = both.chunk(2, dim=1)
    tanh, sigmoid = V.tanh(), U.sigmoid()
    return _Piece(h, tanh, sigmoid, weights.dropout.keep(tanh, start) if weights.dropout else None)


def _gated(piece: _Piece) -> Tensor:
    gated = piece.tanh * piece.sigmoid
    return gated if piece.keep is None else gated.mul_(piece.keep)


def _through_gate(piece: _Piece, d_gated: Tensor) -> Tensor:
    """Gradients with respect to the inputs of tanh and sigmoid, side by side: ``(n, 2 * attention)``."""
    if piece.keep is not None:
        d_gated.mul_(piece.keep)
    n = d_gated.shape[1]
    both = d_gated.new_empty(len(d_gated), 2 * n)
    d_tanh = d_gated.mul_(piece.sigmoid)
    d_sigmoid = d_tanh * piece.tanh
    torch.addcmul(d_tanh, d_sigmoid, piece.tanh, value=-1, out=both[:, :n])
    torch.addcmul(d_sigmoid, d_sigmoid, piece.sigmoid, value=-1, out=both[:, n:])
    return both
