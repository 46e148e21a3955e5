"""Keeps a cohort's bags in GPU memory if they fit there; otherwise they are streamed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedsteph.client.data.bags import BagCache, Cohort
from fedsteph.client.training.gpu_copy import beside, mark, take_over, upload
from fedsteph.client.training.prefetch import Prefetch

SHARE = 0.6  # share of a GPU's free memory for features; the rest is for models, activations and other processes

_GIB = 2**30
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """Whether the features stay on the device, and a sentence with the reason, without IDs or paths."""

    stay: bool
    sentence: str


def decide(n_bytes: int, free: int, device: torch.device) -> Decision:
    """Keep features on a GPU if they take at most :data:`SHARE` of the memory (bytes) that is free without them."""
    size, room = f"{n_bytes / _GIB:.1f} GiB", f"{free / _GIB:.1f} GiB free"
    if n_bytes <= SHARE * free:
        return Decision(True, f"features: {size} stay on {device} ({room})")
    return Decision(False, f"features are streamed to {device}: {size} is more than {SHARE:.0%} of {room}")


@dataclass
class _Held:
    """The bags of one site on one GPU by patient ID, and the sets of patients whose bags do not fit."""

    bags: dict[str, Tensor] = field(default_factory=dict)
    streamed: set[frozenset[str]] = field(default_factory=set)

    @property
    def n_bytes(self) -> int:
        return sum(bag.nbytes for bag in self.bags.values())


# A cohort and its subsets share one BagCache; the bags on the GPU are freed together with it.
_held: WeakKeyDictionary[BagCache, dict[torch.device, _Held]] = WeakKeyDictionary()


def resident_bags(cohort: Cohort, device: torch.device) -> Mapping[str, Tensor] | None:
    """All bags of a cohort on a GPU, by patient ID; None if they are streamed, as always but on CUDA.

    They are uploaded at the first call for a cohort or subset. The decision is made once per subset. Errors as
    :meth:`Cohort.bag`.
    """
    if device.type != "cuda":
        return None
    held = _held.setdefault(cohort.cache, {}).setdefault(device, _Held())
    missing = [i for i, patient in enumerate(cohort.patients) if patient.id not in held.bags]
    if not missing:
        return held.bags
    ids = frozenset(patient.id for patient in cohort.patients)
    if ids in held.streamed:
        return None
    here = sum(on[device].n_bytes for on in _held.values() if device in on)  # bytes of all sites in this process
    wanted = sum(n_bytes(cohort, i) for i in missing)
    decision = decide(here + wanted, _free(device) + here, device)
    _LOG.info(decision.sentence)
    if decision.stay:
        try:
            _upload(cohort, missing, device, held.bags)
            return held.bags
        except torch.OutOfMemoryError:
            # Another process took the free memory. Bags uploaded by earlier calls stay, those of this call are freed.
            _LOG.info("features are streamed to %s after all: another process has taken its memory", device)
            for i in missing:
                held.bags.pop(cohort.patients[i].id, None)
    held.streamed.add(ids)
    return None


def release(cohort: Cohort) -> None:
    """Free the bags that a cohort and its subsets hold on GPUs."""
    _held.pop(cohort.cache, None)


def n_bytes(cohort: Cohort, i: int) -> int:
    """Bytes of patient ``i``'s bag as float32, from the file headers."""
    return cohort.n_instances(i) * cohort.row_width * 4


def _free(device: torch.device) -> int:
    # Memory that PyTorch has reserved but not allocated counts as free.
    unused: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _upload(cohort: Cohort, missing: list[int], device: torch.device, bags: dict[str, Tensor]) -> None:
    def send(i: int) -> tuple[Tensor, torch.cuda.Event | None]:
        with beside(device):
            return upload(cohort.bag(i), device), mark(device)

    with Prefetch(missing, send, lambda i: n_bytes(cohort, i)) as sent:
        for i, (bag, event) in zip(missing, sent, strict=True):
            take_over([bag], event, device)
            bags[cohort.patients[i].id] = bag
