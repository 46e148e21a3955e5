"""Gated-attention pooling of one large bag, forward and backward, a piece of the bag at a time.

What autograd would keep of a bag of 10,000 instances leaves every cache between two operations, and what it would keep
of one of 250,000 fits into no laptop. So the pooling and its gradient are written out here over pieces that stay in a
processor's cache: a running softmax joins the pieces' sums, and the gradient's sums run over the same pieces. Above
``_RECOMPUTE_ABOVE`` instances a piece's activations are not kept at all but computed a second time in the backward
pass, under the same dropout. Either way the result is the plain one up to the order of sums in float32.

With ``p_i`` the weights of the softmax, ``z = sum_i p_i h_i`` and a gradient ``g`` of ``z``, the score of instance i
has the gradient ``p_i (g^T h_i - g^T z)``; all else is the chain rule.
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

_PIECE = {"cpu": 4096, "cuda": 65_536}  # instances: on a CPU 20 MB of activations at 512 and 384 wide
_RECOMPUTE_ABOVE = {"cpu": 32_768, "cuda": 262_144}  # instances: 180 MB and 1.4 GB of activations


@dataclass(frozen=True)
class _Weights:
    """The 8 encoder tensors, V above U, and how to compute; dropout's scale is in ``score`` already."""

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
    """Activations of some instances: ``h`` (n, embed), ``tanh`` and ``sigmoid`` (n, attention), dropout's ``keep``."""

    h: Tensor
    tanh: Tensor
    sigmoid: Tensor
    keep: Tensor | None


def pool(theta: tuple[Tensor, ...], bag: Tensor, dropout: GateDropout | None) -> tuple[Tensor, Tensor]:
    """Pool one bag into its slide vector.

    Args:
        theta: weight and bias of embed, V, U and c, in this order.
        bag: ``(n_instances, d)``; a constant, to which no gradient flows.
        dropout: on the gated product of both branches; None where there is none.

    Returns:
        the slide vector ``(embed,)`` and the attention ``(n_instances,)``, through which no gradient flows.
    """
    learning = torch.is_grad_enabled() and any(weight.requires_grad for weight in theta)
    z, attention = _Pool.apply(bag, dropout, factors(), learning, *theta)  # type: ignore[no-untyped-call]
    return z, attention


def pieces(bag: Tensor) -> Iterator[tuple[int, Tensor]]:
    """A bag ``(n_instances, d)`` cut into pieces that a cache holds, each with the index of its first instance."""
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
        # In float64, or what is lost at each piece adds up over a hundred of them.
        mass, total = (torch.zeros(n, dtype=torch.float64, device=bag.device) for n in ((), len(weights.embed)))
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
            d_h = torch.ops.aten.threshold_backward(d_h, piece.h, 0)  # of ReLU
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
    """The gradient before tanh and sigmoid, side by side ``(n, 2 attention)``."""
    if piece.keep is not None:
        d_gated.mul_(piece.keep)
    n = d_gated.shape[1]
    both = d_gated.new_empty(len(d_gated), 2 * n)
    d_tanh = d_gated.mul_(piece.sigmoid)
    d_sigmoid = d_tanh * piece.tanh
    torch.addcmul(d_tanh, d_sigmoid, piece.tanh, value=-1, out=both[:, :n])
    torch.addcmul(d_sigmoid, d_sigmoid, piece.sigmoid, value=-1, out=both[:, n:])
    return both
