"""What a method costs: multiply-adds per slide, memory, and bytes between the sites."""

from __future__ import annotations

import contextlib
import copy
import resource
import time
from pathlib import Path
from types import TracebackType

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedsteph.common.config.recipe import ModelConfig, SharingConfig
from fedsteph.common.vector.shared_part import shared_bytes
from fedsteph.simulations.memory import memory_of

INSTANCES = 10_000  # of the slide that GFLOPs are counted on
ENVELOPE_BYTES = 1_673  # what sealing adds to a vector (fedsteph measure sealing)
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """How long a block ran, and the largest memory of this process meanwhile: of the GPU where it trains there.

    On the CPU that is the whole process, bags that it holds in its cache included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0
        self.seconds = 0.0
        self.peak_bytes = 0

    def __enter__(self) -> Meter:
        self._started = time.perf_counter()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # Linux: forget the high-water mark; elsewhere it is the whole process's
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._started
        cuda = self._device.type == "cuda"
        self.peak_bytes = torch.cuda.max_memory_allocated(self._device) if cuda else _high_water()

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return {"seconds": self.seconds, "peak_bytes": self.peak_bytes}


def _high_water() -> int:
    with contextlib.suppress(OSError):
        if peak := memory_of("VmHWM"):
            return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def gigaflops(model: nn.Module, width: int, instances: int = INSTANCES) -> float:
    """GFLOPs of one prediction on a slide of ``instances`` instances, as torch's counter finds them.

    It counts 2 per multiply-add of every matrix product and nothing for element-wise work, so an ABMIL of
    1536 -> 512, 384, 32 has 23.6.
    """
    bag = torch.zeros(1, instances, width, device=next(model.parameters()).device)
    plain = copy.deepcopy(model).requires_grad_(False).eval()  # the counter trips over parameters that are outputs
    with FlopCounterMode(display=False) as counter:
        plain(bag)
    return float(counter.get_total_flops()) / 1e9


def vector_bytes(n_sources: int, model: ModelConfig, sharing: SharingConfig) -> int:
    """What one target's sealed vectors take, up to the server and down again."""
    return 2 * n_sources * (shared_bytes(model, sharing) + ENVELOPE_BYTES)


def rounds_bytes(n_sites: int, rounds: int, n_numbers: int) -> int:
    """What federated averaging takes for one model: all sites, down (but for the first round) and up."""
    return n_sites * (2 * rounds - 1) * 4 * n_numbers + 4 * n_numbers
