"""Bags as the models take them: padded stacks, small enough that memory does not grow with the step.

The losses are separable per bag, so a step's gradient is the sum over any grouping of its bags. Small
bags are stacked to save per-call overhead; a bag that fills the budget runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.data.bags import Cohort
from common.survival import bin_of, risk_score

_INSTANCES_PER_PASS = 4096  # padded instances; about 60 MB of activations at 512 and 384 wide
_PADDING = 1.4  # a stack computes at most so many times the instances that its bags really have
_BAGS_PER_PASS = 16  # STEPH's merged weights and their gradients: 75 MB each at 1536 wide


@dataclass(frozen=True)
class Batch:
    """Some bags and their labels on one device.

    Args:
        bags: ``(n_bags, n_instances, d)``, padded with zeros.
        mask: ``(n_bags, n_instances)``, True at real instances; None where nothing is padded.
        times: ``(n_bags,)`` float64, days.
        bins: ``(n_bags,)`` int64, yearly bin of the time.
        events: ``(n_bags,)``, 1 = event.
        ids: of the bags' patients, for what is remembered of them while this process lives.
    """

    bags: Tensor
    mask: Tensor | None
    times: Tensor
    bins: Tensor
    events: Tensor
    ids: tuple[str, ...] = ()


def batches(
    cohort: Cohort, indices: Sequence[int], n_bins: int, device: torch.device
) -> Iterator[tuple[list[int], Batch]]:
    """Stack the bags ``indices``, like sizes together, and yield each stack with the indices in it."""
    for group in _groups(cohort, indices):
        yield group, _stack(cohort, group, n_bins, device)


def _groups(cohort: Cohort, indices: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    real = 0
    for index in sorted(indices, key=cohort.n_instances):
        size = cohort.n_instances(index)
        padded = size * (len(group) + 1)
        too_large = padded > _INSTANCES_PER_PASS or len(group) == _BAGS_PER_PASS
        if group and (too_large or padded > _PADDING * (real + size)):
            yield group
            group, real = [], 0
        group.append(index)
        real += size
    if group:
        yield group


def _stack(cohort: Cohort, group: list[int], n_bins: int, device: torch.device) -> Batch:
    labels = (
        torch.from_numpy(cohort.times[group]).to(device),
        torch.from_numpy(bin_of(cohort.times[group], n_bins)).to(device),
        torch.from_numpy(cohort.events[group]).to(device),
    )
    ids = tuple(cohort.patients[index].id for index in group)
    if len(group) == 1:
        return Batch(cohort.bag(group[0]).unsqueeze(0).to(device), None, *labels, ids)
    tensors = [cohort.bag(index) for index in group]
    lengths = torch.tensor([len(bag) for bag in tensors])
    longest = int(lengths.max())
    padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = torch.arange(longest).unsqueeze(0) < lengths.unsqueeze(1)
    return Batch(padded.to(device), None if bool(mask.all()) else mask.to(device), *labels, ids)


def recalled(known: dict[str, Tensor], batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    """What a frozen model makes of each bag, computed where a bag is met for the first time.

    Args:
        known: by patient; filled here.
        compute: gives one row per bag.
    """
    if not all(key in known for key in batch.ids):
        known |= dict(zip(batch.ids, compute(batch), strict=True))
    return torch.stack([known[key] for key in batch.ids])


@torch.no_grad()
def predict_hazards(model: nn.Module, cohort: Cohort, n_bins: int, device: torch.device) -> np.ndarray:
    """Hazards of every patient of a cohort, ``(n_patients, n_bins)`` float64, with dropout off."""
    model.to(device).eval()
    hazards = np.empty((len(cohort), n_bins))
    for group, batch in batches(cohort, range(len(cohort)), n_bins, device):
        hazards[group] = model(batch.bags, batch.mask).double().cpu().numpy()
    return hazards


def risks(model: nn.Module, cohort: Cohort, n_bins: int, device: torch.device) -> np.ndarray:
    """Risk of every patient of a cohort, ``(n_patients,)``, higher = worse."""
    hazards = predict_hazards(model, cohort, n_bins, device)
    risk: np.ndarray = risk_score(torch.from_numpy(hazards)).numpy()
    return risk
