"""Pairwise merge rules: compute from ``tau_t`` and ``tau_k`` the vector of source k in a weighted sum.

Each rule raises ``VectorMismatchError`` if the two vectors differ in architecture or M0.
"""

from __future__ import annotations

from collections.abc import Callable

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
    target.require_same_origin(source)
    trimmed = torch.stack([_trimmed(vector.flat(), density) for vector in (target, source)])
    sign = torch.sign(trimmed.sum(dim=0))
    agreeing = torch.where(torch.sign(trimmed) == sign, trimmed, torch.zeros(())).sum(dim=0)
    return TaskVector.of_flat(agreeing, target)


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


def _trimmed(row: Tensor, density: float) -> Tensor:
    kept = max(1, round(density * row.numel()))
    top = row.abs().topk(kept).indices
    return torch.zeros_like(row).scatter(0, top, row[top])
