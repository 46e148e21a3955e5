"""Copies tensors from pinned memory to a CUDA GPU beside its computation; to other devices, as torch does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """Run the GPU work of this block on the copy stream: in order, overlapping computation."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(_side_stream(device)):
        yield


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy the tensor to ``device``; a copy to a GPU may still be running on return."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    # PyTorch keeps the pinned buffer until the copy has finished, then reuses its memory.
    return tensor.pin_memory().to(device, non_blocking=True)


def mark(device: torch.device) -> torch.cuda.Event | None:
    """Record an event after the work issued so far in :func:`beside`; None but on CUDA."""
    return _side_stream(device).record_event() if device.type == "cuda" else None


def take_over(tensors: Iterable[Tensor], event: torch.cuda.Event | None, device: torch.device) -> None:
    """Make the compute stream wait for ``event`` before it uses ``tensors`` of :func:`beside`, without blocking."""
    if event is None:
        return
    computing = torch.cuda.current_stream(device)
    computing.wait_event(event)
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(computing)  # else its memory could be reused while still in use


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    # One stream for all copies, because PyTorch does not reuse the memory of one stream on another.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
