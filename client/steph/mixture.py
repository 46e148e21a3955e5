"""The merge (paper eq. 3-5): task vector mixup, sparse aggregation, and nothing touched that has no weight.

``theta = theta_0 + sum_{k in topK(w)} w_k [lam_k tau_t + (1 - lam_k) tau_k]`` is linear in the vectors:
``theta = theta_0 + c_t tau_t + sum_k c_k tau_k`` with ``c_k = w_k (1 - lam_k)`` and ``c_t = sum_k w_k lam_k`` over the
kept k. So a bag's merge reads K + 1 vectors, however many sources there are, and its gradient is one scalar product
with each of them. A vector may be memory-mapped: it is never copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from common.abmil import ABMIL, Architecture
from common.errors import VectorMismatchError
from common.task_vector import TaskVector, flatten

_BLOCK = 4096

Rows = Sequence[Tensor] | Tensor
Used = Sequence[Sequence[int]]  # of each bag: the rows that have a weight


@dataclass(frozen=True)
class Mixture:
    """Everything that is merged, as rows of ``P`` numbers.

    Args:
        architecture: names and shapes that a row is cut into.
        theta_0: M0's encoder, ``(P,)``.
        rows: the target's vector and then the sources', each ``(P,)``; a tensor ``(1 + n_sources, P)`` is as good.
    """

    architecture: Architecture
    theta_0: Tensor
    rows: Rows

    @classmethod
    def of(cls, m0: ABMIL, target: TaskVector, sources: Sequence[TaskVector], *, normalise: bool = False) -> Mixture:
        """Line up the vectors of one federation.

        Args:
            normalise: scale each source's vector to the length of the target's.

        Raises:
            VectorMismatchError: no source, or a source of another architecture or M0 than the target.
        """
        if not sources:
            raise VectorMismatchError("there is no source vector to merge", where="sources")
        for source in sources:
            target.require_same_origin(source)
        if normalise:
            sources = [source * (target.norm / source.norm) if source.norm > 0 else source for source in sources]
        rows = tuple(vector.flat() for vector in (target, *sources))
        return cls(m0.architecture, flatten(m0.encoder_state(), m0.architecture), rows)

    @property
    def n_sources(self) -> int:
        """Number of source vectors."""
        return len(self.rows) - 1

    @property
    def stack(self) -> Tensor:
        """All rows as one tensor ``(1 + n_sources, P)``; a copy, unless they are one already."""
        return self.rows if isinstance(self.rows, Tensor) else torch.stack(tuple(self.rows))

    def to(self, device: torch.device) -> Mixture:
        """The same on another device; on a GPU the rows become one tensor."""
        if self.theta_0.device == device:
            return self
        on_gpu = device.type == "cuda"
        rows: Rows = self.stack.to(device) if on_gpu else [row.to(device) for row in self.rows]
        return Mixture(self.architecture, self.theta_0.to(device), rows)

    def merge(self, coefficients: Tensor, used: Tensor | None = None) -> dict[str, Tensor]:
        """Encoder tensors of each bag, with a leading ``n_bags`` dimension.

        Args:
            coefficients: ``(n_bags, 1 + n_sources)`` as made by :func:`coefficients`.
            used: ``(n_bags, n_used)``, the rows that a bag merges and that a gradient may reach; None: all.
        """
        if self.theta_0.device.type == "cuda":
            theta = torch.addmm(self.theta_0.unsqueeze(0), coefficients, self.stack)
        else:
            which = [range(len(self.rows))] * len(coefficients) if used is None else used.tolist()
            theta = _Merge.apply(coefficients, which, self.theta_0, self.rows)  # type: ignore[no-untyped-call]
        shapes = self.architecture.encoder_shapes
        pieces = torch.split(theta, [math.prod(shape) for shape in shapes.values()], dim=1)
        return {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


class _Merge(torch.autograd.Function):
    """``theta_b = theta_0 + sum_k c_bk tau_k`` over the rows that bag b uses, ``(n_bags, P)``."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, used: Used, theta_0: Tensor, rows: Rows) -> Tensor:
        theta = theta_0.repeat(len(coefficients), 1)
        for merged, weights, which in zip(theta, coefficients.tolist(), used, strict=True):
            for k in which:
                merged.add_(rows[k], alpha=weights[k])
        ctx.used, ctx.rows = used, rows
        return theta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        found = g.new_zeros(len(g), len(ctx.rows))
        for of_bag, gradient, which in zip(found, g, ctx.used, strict=True):
            for k in which:
                of_bag[k] = _dot(gradient, ctx.rows[k])
        return found, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of two long rows; in blocks, because one float32 sum over a million products loses two digits."""
    n = len(a) - len(a) % _BLOCK
    blocks = torch.linalg.vecdot(a[:n].view(-1, _BLOCK), b[:n].view(-1, _BLOCK))
    whole: Tensor = blocks.sum() + torch.dot(a[n:], b[n:])
    return whole


def top_k(w: Tensor, K: int | None) -> Tensor:
    """Indices of the K largest weights of each bag, largest first, ties to the lowest index.

    Args:
        w: ``(n_bags, n_sources)``.
        K: how many; None, or more than there are sources: all.

    Returns:
        ``(n_bags, min(K, n_sources))`` int64.
    """
    order = torch.sort(w.detach(), dim=1, descending=True, stable=True).indices
    return order if K is None else order[:, :K]


def coefficients(w: Tensor, lam: Tensor, kept: Tensor) -> Tensor:
    """``[c_t, c_1 .. c_S]`` of each bag; gradients reach the kept ``w`` and ``lam`` only.

    Args:
        w: ``(n_bags, n_sources)``.
        lam: ``(n_bags, n_sources)``, in (0, 1] except where the variant ``param`` learns it without a bound.
        kept: indices from :func:`top_k`.

    Returns:
        ``(n_bags, 1 + n_sources)``.
    """
    sparse = torch.zeros_like(w).scatter(1, kept, w.gather(1, kept))
    return torch.cat([(sparse * lam).sum(dim=1, keepdim=True), sparse * (1.0 - lam)], dim=1)
