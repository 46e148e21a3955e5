"""Stacks bags into padded batches of limited size, so that memory does not grow with the bags per step.

The losses are separable per bag, so a step's gradient is the sum over any grouping of its bags. Small
bags are stacked to save per-call overhead; a bag that exceeds the limit runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.gpu_copy import beside, mark, take_over, upload
from fedsteph.client.training.prefetch import Prefetch
from fedsteph.client.training.residency import n_bytes, resident_bags
from fedsteph.common.model.precision import factors_in
from fedsteph.common.model.survival import bin_of, risk_score

_INSTANCES_PER_PASS = 4096  # padded instances per stack; about 60 MB of activations at 512 and 384 wide
_PADDING = 1.4  # largest ratio of padded to real instances in a stack
_BAGS_PER_PASS = 16  # STEPH's merged weights of so many bags take 75 MB at 1536 wide, their gradients as much
_PAGE = 1024  # float32 values in a memory page of 4 KiB, the smallest size


@dataclass(frozen=True)
class Batch:
    """Bags and their labels on one device, but for the times, which only Cox's loss needs, and on the CPU."""

    bags: Tensor  # (n_bags, n_instances, d), padded with zeros
    mask: Tensor | None  # (n_bags, n_instances), True at real instances; None if nothing is padded
    times: Tensor  # (n_bags,) float64, days; on the CPU
    bins: Tensor  # (n_bags,) int64, yearly bin of the time
    events: Tensor  # (n_bags,), 1 = event
    ids: tuple[str, ...] = ()  # patients, as keys of values that are cached in this process


@dataclass(frozen=True)
class Sent:
    """A stack that another thread prepared; its copy to a GPU may still be running."""

    group: list[int]
    batch: Batch
    event: torch.cuda.Event | None

    def received(self) -> tuple[list[int], Batch]:
        """Make the stack safe to compute on; return the indices of its bags and the stack."""
        tensors = [tensor for tensor in vars(self.batch).values() if isinstance(tensor, Tensor)]
        take_over(tensors, self.event, self.batch.bags.device)
        return self.group, self.batch


def batches(
    cohort: Cohort, indices: Sequence[int], n_bins: int, device: torch.device
) -> Iterator[tuple[list[int], Batch]]:
    """Stack the bags ``indices``, grouped by size, and yield each stack with the indices of its bags.

    The next stacks are read during computation on the current one. Errors as :meth:`Cohort.bag`.
    """
    with prefetched(cohort, groups_of(cohort, indices), n_bins, device) as stacks:
        for sent in stacks:
            yield sent.received()


def prefetched(
    cohort: Cohort, plan: Iterable[list[int]], n_bins: int, device: torch.device
) -> Prefetch[list[int], Sent]:
    """Prefetch the stacks of the groups in ``plan``, in order."""
    resident = resident_bags(cohort, device)
    labels = (cohort.times, bin_of(cohort.times, n_bins), cohort.events)

    def send(group: list[int]) -> Sent:
        ids = tuple(cohort.patients[i].id for i in group)
        with beside(device):
            parts = [cohort.bag(i) for i in group] if resident is None else [resident[key] for key in ids]
            bags, mask = _stack(parts, device)
            times, bins, events = (torch.from_numpy(label[group]) for label in labels)
            bins, events = upload(bins, device), upload(events, device)
            if device.type == "cpu" and len(group) == 1:
                bags[..., ::_PAGE].sum()  # touch every page, to read a memory-mapped bag from disk here
            return Sent(group, Batch(bags, mask, times, bins, events, ids), mark(device))

    return Prefetch(plan, send, lambda group: stack_bytes(cohort, group))


def stack_bytes(cohort: Cohort, group: Sequence[int]) -> int:
    """Bytes of a stack of bags, including padding."""
    return len(group) * max(n_bytes(cohort, i) for i in group)


def groups_of(cohort: Cohort, indices: Sequence[int]) -> Iterator[list[int]]:
    """Divide the bags ``indices`` into groups of similar size, one per stack."""
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


def _stack(bags: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Pad the bags to one size; return them with the mask of real instances, None without padding."""
    if len(bags) == 1:
        return upload(bags[0].unsqueeze(0), device), None
    lengths = torch.tensor([len(bag) for bag in bags])
    longest = int(lengths.max())
    padded = nn.utils.rnn.pad_sequence(bags, batch_first=True)
    mask = torch.arange(longest).unsqueeze(0) < lengths.unsqueeze(1)
    return upload(padded, device), None if bool(mask.all()) else upload(mask, device)


def recalled(known: dict[str, Tensor], batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    """Outputs of a frozen model, one row per bag, computed once per patient and then taken from a cache.

    Args:
        known: the cache by patient ID; filled here.
        compute: gives one row for a stack of one bag; must not use the labels, which are those of the whole batch.
    """
    for i, key in enumerate(batch.ids):
        if key not in known:
            # Computed alone, because in a stack the last bit would depend on the other bags.
            bag = batch.bags[i].clone() if batch.mask is None else batch.bags[i][batch.mask[i]]
            alone = replace(batch, bags=bag.unsqueeze(0), mask=None)
            with factors_in(torch.float32):  # the precision of prediction
                known[key] = compute(alone)[0]
    return torch.stack([known[key] for key in batch.ids])


def head_of(model: nn.Module) -> nn.Linear:
    """The ``head`` that every model ends with: it has one output per yearly hazard."""
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return head


@torch.no_grad()
def predict_hazards(model: nn.Module, cohort: Cohort, device: torch.device) -> np.ndarray:
    """Hazards of every patient, ``(n_patients, n_bins)`` float64, with dropout off; errors as :meth:`Cohort.bag`."""
    model.to(device).eval()
    n_bins = head_of(model).out_features
    found, order = [], []
    for group, batch in batches(cohort, range(len(cohort)), n_bins, device):
        found.append(model(batch.bags, batch.mask))
        order += group
    hazards = np.empty((len(cohort), n_bins))
    if found:
        hazards[order] = torch.cat(found).cpu().double().numpy()  # one copy, because every copy waits for the GPU
    return hazards


def risks(model: nn.Module, cohort: Cohort, device: torch.device) -> np.ndarray:
    """Risk of every patient of a cohort, ``(n_patients,)``; no unit, higher is worse."""
    hazards = predict_hazards(model, cohort, device)
    risk: np.ndarray = risk_score(torch.from_numpy(hazards)).numpy()
    return risk
