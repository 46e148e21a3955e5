"""Bags as the models take them: padded stacks, small enough that memory does not grow with the step.

The losses are separable per bag, so a step's gradient is the sum over any grouping of its bags. Small
bags are stacked to save per-call overhead; a bag that fills the budget runs alone.
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

_INSTANCES_PER_PASS = 4096  # padded instances; about 60 MB of activations at 512 and 384 wide
_PADDING = 1.4  # a stack computes at most so many times the instances that its bags really have
_BAGS_PER_PASS = 16  # STEPH's merged weights and their gradients: 75 MB each at 1536 wide
_PAGE = 1024  # float32 values in the smallest page of memory


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


@dataclass(frozen=True)
class Sent:
    """A stack that another thread made; on a GPU it may still be on its way."""

    group: list[int]
    batch: Batch
    event: torch.cuda.Event | None

    def received(self) -> tuple[list[int], Batch]:
        """The indices and the stack, as the computing may use it."""
        batch = self.batch
        tensors = (batch.bags, batch.times, batch.bins, batch.events, batch.mask)
        take_over((tensor for tensor in tensors if tensor is not None), self.event, batch.bags.device)
        return self.group, batch


def batches(
    cohort: Cohort, indices: Sequence[int], n_bins: int, device: torch.device
) -> Iterator[tuple[list[int], Batch]]:
    """Stack the bags ``indices``, like sizes together, and yield each stack with the indices in it.

    The next stacks are read while one is computed on (:mod:`fedsteph.client.training.prefetch`).

    Raises:
        FeatureFileError: as :meth:`Cohort.bag` does.
    """
    with prefetched(cohort, groups_of(cohort, indices), n_bins, device) as stacks:
        for sent in stacks:
            yield sent.received()


def prefetched(
    cohort: Cohort, plan: Iterable[list[int]], n_bins: int, device: torch.device
) -> Prefetch[list[int], Sent]:
    """The stacks of the groups ``plan``, in its order."""
    resident = resident_bags(cohort, device)
    labels = (cohort.times, bin_of(cohort.times, n_bins), cohort.events)

    def bag(i: int) -> Tensor:
        return cohort.bag(i) if resident is None else resident[cohort.patients[i].id]

    def send(group: list[int]) -> Sent:
        with beside(device):
            bags, mask = _stack([bag(i) for i in group], device)
            times, bins, events = (upload(torch.from_numpy(label[group]), device) for label in labels)
            batch = Batch(bags, mask, times, bins, events, tuple(cohort.patients[i].id for i in group))
            if device.type == "cpu" and len(group) == 1:
                batch.bags[..., ::_PAGE].sum()  # the bag may be a file mapped into memory: this is what reads it
            return Sent(group, batch, mark(device))

    return Prefetch(plan, send, lambda group: stack_bytes(cohort, group))


def stack_bytes(cohort: Cohort, group: Sequence[int]) -> int:
    """Bytes of a stack of bags, padding included."""
    return len(group) * max(n_bytes(cohort, i) for i in group)


def groups_of(cohort: Cohort, indices: Sequence[int]) -> Iterator[list[int]]:
    """Which of the bags ``indices`` share a stack."""
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
    """The bags padded to one size, and which instances are real."""
    if len(bags) == 1:
        return upload(bags[0].unsqueeze(0), device), None
    lengths = torch.tensor([len(bag) for bag in bags])
    longest = int(lengths.max())
    padded = nn.utils.rnn.pad_sequence(bags, batch_first=True)
    mask = torch.arange(longest).unsqueeze(0) < lengths.unsqueeze(1)
    return upload(padded, device), None if bool(mask.all()) else upload(mask, device)


def recalled(known: dict[str, Tensor], batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    """What a frozen model makes of each bag, computed where a bag is met for the first time.

    Args:
        known: by patient; filled here.
        compute: gives one row for a stack of one bag; of its labels it sees nothing.
    """
    for i, key in enumerate(batch.ids):
        if key not in known:
            # Alone, so that it does not depend to the last bit on who was with it when it was met.
            bag = batch.bags[i].clone() if batch.mask is None else batch.bags[i][batch.mask[i]]
            alone = replace(batch, bags=bag.unsqueeze(0), mask=None)
            with factors_in(torch.float32):  # as where it is predicted
                known[key] = compute(alone)[0]
    return torch.stack([known[key] for key in batch.ids])


@torch.no_grad()
def predict_hazards(model: nn.Module, cohort: Cohort, n_bins: int, device: torch.device) -> np.ndarray:
    """Hazards of every patient of a cohort, ``(n_patients, n_bins)`` float64, with dropout off."""
    model.to(device).eval()
    found, order = [], []
    for group, batch in batches(cohort, range(len(cohort)), n_bins, device):
        found.append(model(batch.bags, batch.mask).double())
        order += group
    hazards = np.empty((len(cohort), n_bins))
    if found:
        hazards[order] = torch.cat(found).cpu().numpy()  # at once: a GPU would be waited for at every stack
    return hazards


def risks(model: nn.Module, cohort: Cohort, n_bins: int, device: torch.device) -> np.ndarray:
    """Risk of every patient of a cohort, ``(n_patients,)``, higher = worse."""
    hazards = predict_hazards(model, cohort, n_bins, device)
    risk: np.ndarray = risk_score(torch.from_numpy(hazards)).numpy()
    return risk
