"""Copies to a GPU beside its computing: from pinned memory, on a stream of their own. On a CPU nothing happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """What is issued to a GPU within runs beside its computing, in order."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(_side_stream(device)):
        yield


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; to a GPU it may still be on its way."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    # PyTorch keeps the pinned copy until the transfer has ended, and uses its memory again for a later one.
    return tensor.pin_memory().to(device, non_blocking=True)


def mark(device: torch.device) -> torch.cuda.Event | None:
    """The point up to which work was issued :func:`beside`; None on a CPU."""
    return _side_stream(device).record_event() if device.type == "cuda" else None


def take_over(tensors: Iterable[Tensor], event: torch.cuda.Event | None, device: torch.device) -> None:
    """Let the computing use ``tensors`` that were made :func:`beside` it before ``event``; the caller does not wait."""
    if event is None:
        return
    computing = torch.cuda.current_stream(device)
    computing.wait_event(event)
    for tensor in tensors:
        tensor.record_stream(computing)  # else the memory could be filled anew while it is still being computed on


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all: the memory that was allocated on one stream is not used again on another.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
