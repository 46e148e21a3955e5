"""The merge (paper eq. 3-5): task vector mixup, sparse aggregation, and one matrix product for all of it.

``theta = theta_0 + sum_{k in topK(w)} w_k [lam_k tau_t + (1 - lam_k) tau_k]`` is linear in the vectors:
``theta = theta_0 + c_t tau_t + sum_k c_k tau_k`` with ``c_k = w_k (1 - lam_k)`` and ``c_t = sum_k w_k lam_k``
over the kept k. So the coefficients of a batch of bags times the stacked vectors is the whole merge, and
one product with the same stack is its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.abmil import ABMIL, Architecture
from common.errors import VectorMismatchError
from common.task_vector import TaskVector, flatten


@dataclass(frozen=True)
class Mixture:
    """Everything that is merged, as rows of ``P`` numbers.

    Args:
        architecture: names and shapes that a row is cut into.
        theta_0: M0's encoder, ``(P,)``.
        stack: the target's vector and then the sources', ``(1 + n_sources, P)``.
    """

    architecture: Architecture
    theta_0: Tensor
    stack: Tensor

    @classmethod
    def of(cls, m0: ABMIL, target: TaskVector, sources: Sequence[TaskVector], *, normalise: bool = False) -> Mixture:
        """Stack the vectors of one federation.

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
        stack = torch.stack([vector.flat() for vector in (target, *sources)])
        return cls(m0.architecture, flatten(m0.encoder_state(), m0.architecture), stack)

    @property
    def n_sources(self) -> int:
        """Number of source vectors."""
        return len(self.stack) - 1

    def to(self, device: torch.device) -> Mixture:
        """The same on another device."""
        return Mixture(self.architecture, self.theta_0.to(device), self.stack.to(device))

    def merge(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Encoder tensors of each bag, with a leading ``n_bags`` dimension.

        Args:
            coefficients: ``(n_bags, 1 + n_sources)`` as made by :func:`coefficients`.
        """
        theta = torch.addmm(self.theta_0.unsqueeze(0), coefficients, self.stack)  # (n_bags, P)
        shapes = self.architecture.encoder_shapes
        pieces = torch.split(theta, [math.prod(shape) for shape in shapes.values()], dim=1)
        return {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


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
