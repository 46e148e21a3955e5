"""Random draws of torch that follow from a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Inside the block, what torch draws on the CPU and on ``device`` follows from ``seed``.

    After it, torch goes on as if nothing had been drawn.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed: without a GPU it writes down the whole stack, for three kinds of them, each time.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
