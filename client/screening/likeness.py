"""Finds vectors that are too long, or a copy of the target's own or another source's vector, by norm and cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.screening.verdict import Figures
from fedsteph.common.vector.task_vector import TaskVector

_BLOCK_NUMBERS = 1 << 22  # of all rows at a time: 32 MiB in float64
# Bound on norm / median norm: honest vectors of 60 to 900 patients reached 2.3, a scaling attack has 10.
LONGEST = 3.0
# Bound on the cosine with an own vector: two honest sites, or two folds of one site, reach 0.8; a copy has 1.
COPY = 0.9  # copy_bound may raise it
# Bound on the cosine of two sources: which one is the copy is unknown, so only nearly equal vectors count.
TWIN = 0.99


def figures_of(
    vectors: Mapping[str, TaskVector], own: Sequence[TaskVector], relatives: Sequence[TaskVector] = ()
) -> dict[str, Figures]:
    """Norm and cosines of every source's vector.

    Cosines can show copies, but not harm: honest vectors of different cancers are orthogonal, and so is noise. They are
    of the encoder alone, so a copy under another head is found, too. A head is short beside its vector, so the heads'
    norms are compared by themselves.

    Args:
        vectors: source -> vector.
        own: the target's: this fold's first, then those that other sites may hold.
        relatives: of the target's models of parts of this fold's patients; with heads, if a source has one.
    """
    names, rows = list(vectors), [vector.flat() for vector in vectors.values()]
    norms = [_norm(row) for row in rows]
    own_norm = _norm(own[0].flat())
    cosines = _cosines([*rows, *(vector.flat() for vector in own)])
    to_own, to_others = cosines[: len(rows), len(rows) :], cosines[: len(rows), : len(rows)].fill_diagonal_(-math.inf)
    own_heads = [_norm(vector.head) for vector in relatives if vector.head is not None]
    heads = {name: _norm(vector.head) for name, vector in vectors.items() if vector.head is not None}
    found = {}
    for k, name in enumerate(names):
        others = [*norms[:k], *norms[k + 1 :], own_norm]
        twin = int(to_others[k].argmax()) if len(names) > 1 else None
        found[name] = Figures(
            norm=norms[k],
            norm_ratio=_ratio(norms[k], others),
            own_cosine=float(to_own[k].max()),
            twin=None if twin is None else names[twin],
            twin_cosine=None if twin is None else float(to_others[k, twin]),
            head_ratio=_ratio(heads[name], _other_heads(heads, name, own_heads)) if name in heads else None,
        )
    return found


def copy_bound(own: TaskVector, relatives: Sequence[TaskVector]) -> float:
    """The cosine above which a vector is a copy: halfway between the relatives' largest cosine and 1, at least 0.9.

    After few training steps, all vectors of a federation have similar directions; then only equal ones are copies.
    Relatives are vectors of models trained on parts of the patients of ``own``.
    """
    nearest = float(_cosines([own.flat(), *(vector.flat() for vector in relatives)])[0, 1:].max()) if relatives else 0.0
    return max(COPY, (1.0 + nearest) / 2.0)


def problem_of(name: str, found: Mapping[str, Figures], bound: float) -> str | None:
    """Why a vector is suspicious by its norm or cosines, as a sentence; None if it is not (:func:`copy_bound`)."""
    one = found[name]
    twin, twin_cosine = one.twin, one.twin_cosine or 0.0
    if one.norm_ratio > LONGEST:
        return f"its norm is {one.norm_ratio:.1f} times the median, and {LONGEST:g} is the bound"
    if one.head_ratio is not None and one.head_ratio > LONGEST:
        return f"the norm of its head is {one.head_ratio:.1f} times the median, and {LONGEST:g} is the bound"
    if one.own_cosine > bound:
        return f"it is a copy of the target's own vector: their cosine is {one.own_cosine:.3f}, the bound {bound:.3f}"
    # The longer one of two copies is refused, since which came first is unknown.
    if twin is not None and twin_cosine > max(TWIN, bound) and (one.norm, name) > (found[twin].norm, twin):
        return f"it is a copy of the vector of {twin}: their cosine is {twin_cosine:.3f}"
    return None


def _other_heads(heads: Mapping[str, float], name: str, own: Sequence[float]) -> list[float]:
    """The norms of the other sources' heads, and one for the target."""
    return [norm for other, norm in heads.items() if other != name] + ([float(np.median(own))] if own else [])


def _ratio(norm: float, others: Sequence[float]) -> float:
    median = float(np.median(others)) if others else 0.0
    return norm / median if median > 0 else float(norm > 0)


def _norm(row: Tensor) -> float:
    return float(torch.linalg.vector_norm(row, dtype=torch.float64))


def _cosines(rows: Sequence[Tensor]) -> Tensor:
    """The cosine of every two rows, ``(n, n)`` in float64; 0 with a row of zeros.

    One product per block of columns: with hundreds of sources, pair by pair would read every vector hundreds of times.
    """
    products, size = torch.zeros(len(rows), len(rows), dtype=torch.float64), max(1, _BLOCK_NUMBERS // len(rows))
    for start in range(0, len(rows[0]), size):
        block = torch.stack([row[start : start + size] for row in rows]).double()
        products += block @ block.t()
    norms = products.diagonal().sqrt()
    lengths = norms[:, None] * norms[None, :]
    return torch.where(lengths > 0, products / lengths, 0.0)
