"""Random draws of torch that follow from a seed alone, or are made a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Inside the block, what torch draws on the CPU and on ``device`` follows from ``seed``.

    After it, torch goes on as if nothing had been drawn.
    """
    before = draw_states(device)
    try:
        # Not torch.manual_seed: without a GPU it writes down the whole stack, for three kinds of them, each time.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
    finally:
        set_draw_states(before, device)


def draw_states(device: torch.device) -> list[Tensor]:
    """Where torch's generators stand: the CPU's, then that of ``device`` if it is a GPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_draw_states(states: list[Tensor], device: torch.device) -> None:
    """Let torch draw again what it drew after :func:`draw_states` of the same ``device``."""
    torch.set_rng_state(states[0])
    for own in states[1:]:
        if device.type == "mps":
            torch.mps.set_rng_state(own)
        else:
            torch.cuda.set_rng_state(own, device)
