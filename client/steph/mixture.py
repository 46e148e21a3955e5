"""Merges task vectors per bag: task vector mixup and sparse aggregation (paper eq. 3-5).

``theta = theta_0 + sum_{k in topK(w)} w_k [lam_k tau_t + (1 - lam_k) tau_k]`` is linear in the vectors:
``theta = theta_0 + c_t tau_t + sum_k c_k tau_k`` with ``c_k = w_k (1 - lam_k)`` and ``c_t = sum_k w_k lam_k`` over the
kept k. With few sources, or no K, the merge is one matrix product: coefficients of a stack of bags times all vectors.
With many sources, the merge of a bag is a sum that reads only its K + 1 weighted vectors, and the gradient is one dot
product with each of them. These vectors may be memory-mapped, and are never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector, cut, flatten

_BLOCK = 4096
_STACKED = 64  # rows: at most so many are copied into one tensor, 300 MB at 1536 -> 512 and 384

Rows = Sequence[Tensor] | Tensor
Used = Sequence[Sequence[int]]  # per bag: the rows with a weight


@dataclass(frozen=True)
class Mixture:
    """M0's encoder and the task vectors to merge, each as a row of ``P`` numbers."""

    architecture: Architecture  # names and shapes of the tensors in a row
    theta_0: Tensor  # M0's encoder, (P,)
    rows: Rows  # the target's vector, then the sources', each (P,); or one tensor (1 + n_sources, P)
    # M0's risk direction, then the heads of the same vectors, zeros where one has none (2 + n_sources, embed); None
    # where no source has a head: the target's own is then not merged either
    heads: Tensor | None = None

    @classmethod
    def of(
        cls, m0: BaseModel, target: TaskVector, sources: Sequence[TaskVector], *, normalise: bool = False
    ) -> Mixture:
        """Build a mixture from the vectors of one federation.

        Args:
            normalise: scale each source's vector so that its encoder has the L2 norm of the target's.

        Raises:
            VectorMismatchError: there is no source, or one has another architecture or M0 than the target.
        """
        if not sources:
            raise VectorMismatchError("there is no source vector to merge", where="sources")
        for source in sources:
            target.require_same_origin(source)
        if normalise:
            norm = target.without_head().norm
            norms = [source.without_head().norm for source in sources]
            sources = [source * (norm / own) if own > 0 else source for source, own in zip(sources, norms, strict=True)]
        rows = tuple(vector.flat() for vector in (target, *sources))
        few = len(rows) <= _STACKED
        theta_0, heads = flatten(m0.encoder_state(), m0.architecture), _heads(m0, target, sources)
        return cls(m0.architecture, theta_0, torch.stack(rows) if few else rows, heads)

    @property
    def n_sources(self) -> int:
        """Number of source vectors."""
        return len(self.rows) - 1

    @property
    def stack(self) -> Tensor:
        """All rows as one tensor ``(1 + n_sources, P)``; a copy, unless they already are one."""
        return self.rows if isinstance(self.rows, Tensor) else torch.stack(tuple(self.rows))

    def to(self, device: torch.device) -> Mixture:
        """The mixture on another device; on a GPU the rows become one tensor."""
        if self.theta_0.device == device:
            return self
        one = isinstance(self.rows, Tensor) or device.type != "cpu"
        rows: Rows = self.stack.to(device) if one else [row.to(device) for row in self.rows]
        heads = None if self.heads is None else self.heads.to(device)
        return Mixture(self.architecture, self.theta_0.to(device), rows, heads)

    @property
    def headed(self) -> list[bool]:
        """Of every source, whether its vector has a head."""
        if self.heads is None:
            return [False] * self.n_sources
        return self.heads[2:].bool().any(dim=1).tolist()

    def direction(self, coefficients: Tensor) -> Tensor:
        """The merged risk direction of each bag, ``(n_bags, 1 + n_sources) -> (n_bags, embed)``, where there are heads.

        The arguments are as in :meth:`merge`.
        """
        assert self.heads is not None
        return torch.addmm(self.heads[:1], coefficients, self.heads[1:])

    def merge(self, coefficients: Tensor, used: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the encoder tensors of each bag, with a leading ``n_bags`` dimension.

        Args:
            coefficients: ``(n_bags, 1 + n_sources)`` as made by :func:`coefficients`.
            used: ``(n_bags, n_used)``, the rows that a bag merges and that get a gradient; None: all.
        """
        if self._dense(used):
            if used is not None:
                coefficients = torch.zeros_like(coefficients).scatter(1, used, coefficients.gather(1, used))
            theta = _Product.apply(coefficients, self.theta_0, self.rows)  # type: ignore[no-untyped-call]
        else:
            which = [range(len(self.rows))] * len(coefficients) if used is None else used.tolist()
            theta = _Sums.apply(coefficients, which, self.theta_0, self.rows)  # type: ignore[no-untyped-call]
        return cut(theta, self.architecture)

    def _dense(self, used: Tensor | None) -> bool:
        """Whether one product over all rows is cheaper than sums over the used ones; True on a GPU, to avoid waits."""
        if not isinstance(self.rows, Tensor):
            return False
        return self.rows.device.type != "cpu" or used is None or used.numel() >= len(self.rows)


def _heads(m0: BaseModel, target: TaskVector, sources: Sequence[TaskVector]) -> Tensor | None:
    if target.head is None or not any(source.has_head for source in sources):
        return None
    nothing = torch.zeros_like(target.head)
    return torch.stack([m0.risk_direction(), target.head, *(nothing if s.head is None else s.head for s in sources)])


class _Product(torch.autograd.Function):
    """``theta_0 + coefficients @ rows``; the gradient sums a million products in blocks, as :func:`_dot` does."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, theta_0: Tensor, rows: Tensor) -> Tensor:
        ctx.rows = rows
        return torch.addmm(theta_0.unsqueeze(0), coefficients, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rows, g = ctx.rows, g.contiguous()
        n = rows.shape[1] - rows.shape[1] % _BLOCK
        a = g[:, :n].view(len(g), -1, _BLOCK).transpose(0, 1)  # (n_blocks, n_bags, _BLOCK)
        b = rows[:, :n].view(len(rows), -1, _BLOCK).permute(1, 2, 0)  # (n_blocks, _BLOCK, n_rows)
        return torch.bmm(a, b).sum(dim=0) + g[:, n:] @ rows[:, n:].t(), None, None


class _Sums(torch.autograd.Function):
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
    """Dot product of two long rows, in blocks: one float32 sum over a million products loses two digits."""
    n = len(a) - len(a) % _BLOCK
    blocks = torch.linalg.vecdot(a[:n].reshape(-1, _BLOCK), b[:n].reshape(-1, _BLOCK))
    whole: Tensor = blocks.sum() + torch.dot(a[n:], b[n:])
    return whole


def top_k(w: Tensor, K: int | None) -> Tensor:
    """Indices of the K largest weights of each bag, largest first, ties to the lowest index.

    ``w (n_bags, n_sources) -> (n_bags, min(K, n_sources))`` int64; K None: all sources.
    """
    order = torch.sort(w.detach(), dim=1, descending=True, stable=True).indices
    return order if K is None else order[:, :K]


def coefficients(w: Tensor, lam: Tensor, kept: Tensor) -> Tensor:
    """``[c_t, c_1 .. c_S]`` of each bag; gradients reach the kept ``w`` and ``lam`` only.

    ``w (n_bags, n_sources), lam (n_bags, n_sources), kept (n_bags, K) -> (n_bags, 1 + n_sources)``; lam is in (0, 1],
    but without bounds in the variant ``param``.
    """
    sparse = torch.zeros_like(w).scatter(1, kept, w.gather(1, kept))
    return torch.cat([(sparse * lam).sum(dim=1, keepdim=True), sparse * (1.0 - lam)], dim=1)
