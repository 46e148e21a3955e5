"""Pairwise merge rules: compute from ``tau_t`` and ``tau_k`` the vector of source k in a weighted sum.

Each rule raises ``VectorMismatchError`` if the vectors differ in architecture or M0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsteph.common.vector.task_vector import TaskVector

Rule = Callable[[TaskVector, TaskVector], TaskVector]


def plain(target: TaskVector, source: TaskVector) -> TaskVector:
    """The source's vector, unchanged (AdaMerging: Yang et al., ICLR 2024)."""
    target.require_same_origin(source)
    return source


def ties(target: TaskVector, source: TaskVector, density: float = 0.2) -> TaskVector:
    """TIES of two vectors (Yadav et al., NeurIPS 2023): trim, elect a sign per entry, sum the entries of that sign.

    ``density``: share of each flattened vector's entries to keep, the largest by magnitude.
    """
    total, _ = _agreeing([target, source], density)
    return TaskVector.of_flat(total, target)


def ties_mean(vectors: Sequence[TaskVector], density: float = 0.2) -> TaskVector:
    """TIES of at least one vector, as published: as :func:`ties`, but the mean of the entries that have the sign."""
    total, count = _agreeing(vectors, density)
    return TaskVector.of_flat(total / count.clamp(min=1), vectors[0])


def iso_c(target: TaskVector, source: TaskVector) -> TaskVector:
    """Iso-C of two vectors (Marczak et al., ICML 2025).

    In each matrix of ``tau_t + tau_k``, all singular values are replaced by their mean; biases are averaged.
    """
    target.require_same_origin(source)
    merged = {}
    for name, own in target.tensors.items():
        total = own + source.tensors[name]
        if total.dim() < 2:
            merged[name] = total / 2
            continue
        U, S, V = torch.linalg.svd(total, full_matrices=False)
        merged[name] = S.mean() * (U @ V)
    return TaskVector(target.architecture, target.m0_sha256, merged)


def _agreeing(vectors: Sequence[TaskVector], density: float) -> tuple[Tensor, Tensor]:
    """Per entry, the sum of the trimmed values that have the elected sign, and their number; both ``(P,)``."""
    # One vector after the other: the memory that it takes does not grow with their number.
    above, below = torch.zeros(2, vectors[0].flat().numel())
    n_above, n_below = torch.zeros(2, len(above), dtype=torch.int16)
    for vector in vectors:
        vectors[0].require_same_origin(vector)
        row = _trimmed(vector.flat(), density)
        above += row.clamp(min=0)
        below += row.clamp(max=0)
        n_above += row > 0
        n_below += row < 0
    sign = torch.sign(above + below)
    total = torch.where(sign > 0, above, torch.where(sign < 0, below, 0.0))
    return total, torch.where(sign > 0, n_above, n_below)


def _trimmed(row: Tensor, density: float) -> Tensor:
    """The row with zeros but for its largest magnitudes; more are kept only where the smallest of them are equal."""
    dropped = row.numel() - max(1, round(density * row.numel()))
    magnitude = row.abs()
    least = float(np.partition(magnitude.numpy(), dropped)[dropped])  # a third of the time of torch.topk
    return torch.where(magnitude >= least, row, 0.0)
