"""Subspace alignment ratio (SAR): the share of ``tau_t`` in a merge's main subspace (arXiv 2603.10526, app. A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.methods.merged import Merged
from fedsteph.client.methods.task import Task
from fedsteph.client.steph.mixture import coefficients
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import batches
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector

ENERGY = 0.95  # share of the merged matrix's squared singular values in its leading directions


@dataclass(frozen=True)
class Alignment:
    """A subspace alignment ratio, and the rank of its subspace."""

    sar: float
    rank: int


def alignment(merged: Tensor, target: Tensor, energy: float = ENERGY) -> Alignment:
    """``SAR = |U_k U_k^T tau_t|_F / |tau_t|_F``.

    ``U_k`` are the fewest leading left-singular vectors of the merged matrix that hold the share ``energy`` of the sum
    of its squared singular values. Both task matrices are ``(n, m)``; the ratio is from 0 to 1, and 0, with rank 0, if
    either is zero.
    """
    merged, target = merged.double(), target.double()
    # The eigenvectors of M M^T are M's left-singular vectors, and cost a quarter of a full SVD.
    squares, U = torch.linalg.eigh(merged @ merged.T)
    held = squares.flip(0).clamp(min=0).cumsum(0)
    norm = float(target.norm())
    if float(held[-1]) == 0 or norm == 0:
        return Alignment(0.0, 0)
    k = int((held / held[-1] < energy).sum()) + 1
    return Alignment(float((U.flip(1)[:, :k].T @ target).norm()) / norm, k)


def subspace_alignment(merged: Tensor, target: Tensor, energy: float = ENERGY) -> float:
    """The ratio of :func:`alignment` without its rank."""
    return alignment(merged, target, energy).sar


def aligned_matrices(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the weight matrices with more than one row; a single row has no subspace to compare."""
    return [name for name, tensor in tensors.items() if tensor.dim() == 2 and len(tensor) > 1]


def mean_alignment(merged: TaskVector, target: TaskVector) -> float:
    """Mean SAR of the weight matrices with more than one row."""
    names = aligned_matrices(target.tensors)
    return fmean(subspace_alignment(merged.tensors[name], target.tensors[name]) for name in names)


@torch.no_grad()
def merged_vector(task: Task, model: nn.Module, cohort: Cohort) -> TaskVector | None:
    """A model's encoder minus M0, as one vector; if the merge differs per patient, the mean over the cohort.

    None for a model without such an encoder.
    """
    if isinstance(model, BaseModel):
        return TaskVector.between(model.cpu(), task.m0)
    if not isinstance(model, Steph | Merged):
        return None
    model.to(task.device).eval()
    n_bins, rows = task.recipe.model.n_bins, []
    for _, batch in batches(cohort, range(len(cohort)), n_bins, task.device):
        if isinstance(model, Steph):
            routing = model.route(batch.bags, batch.mask)
            rows.append(coefficients(routing.w, routing.lam, routing.kept))
        else:
            rows.append(model.weights(batch.bags, batch.mask).expand(len(batch.bags), -1))
    mean = torch.cat(rows).mean(dim=0).cpu()
    return TaskVector.of_flat(mean @ model.mixture.stack.cpu(), task.own)
