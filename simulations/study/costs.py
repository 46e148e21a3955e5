"""Measures a method's costs: GFLOPs per slide, seconds and peak memory of training, and network bytes."""

from __future__ import annotations

import contextlib
import copy
import sys
import time
from pathlib import Path
from types import TracebackType

import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedsteph.common.config.recipe import ModelConfig, SharingConfig
from fedsteph.common.vector.shared_part import shared_bytes
from fedsteph.simulations.memory import memory_of

INSTANCES = 10_000  # instances of the slide for which GFLOPs are counted
ENVELOPE_BYTES = 1_945  # bytes that sealing (fedsteph measure sealing) and 256 of a statement add to a vector
_CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Measures a block's seconds and peak bytes: of a CUDA GPU, else of the whole process with its cached bags."""

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
            _CLEAR.write_text("5")  # Linux: resets the peak; elsewhere the peak is since the process started
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._started
        cuda = self._device.type == "cuda"
        self.peak_bytes = torch.cuda.max_memory_allocated(self._device) if cuda else _high_water()

    def to_dict(self) -> dict[str, float]:
        """``seconds`` and ``peak_bytes``, JSON-ready."""
        return {"seconds": self.seconds, "peak_bytes": self.peak_bytes}


def _high_water() -> int:
    with contextlib.suppress(OSError):
        if peak := memory_of("VmHWM"):
            return peak
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415 (Windows has none)

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@torch.no_grad()
def gigaflops(model: nn.Module, width: int, instances: int = INSTANCES) -> float:
    """GFLOPs of one prediction on a bag of ``instances`` rows with ``width`` numbers each, by torch's counter.

    It counts 2 FLOPs per multiply-add of every matrix product, of a sparse matrix for its entries alone, and no
    element-wise operations. An ABMIL of 1536 -> 512, 384, 32 has 23.6 GFLOPs.
    """
    bag = torch.zeros(1, instances, width, device=next(model.parameters()).device)
    plain = copy.deepcopy(model).requires_grad_(False).eval()  # the counter fails if parameters are also outputs
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: _product}) as counter:
        plain(bag)
    return float(counter.get_total_flops()) / 1e9


def _product(a: Tensor, b: Tensor, **_: object) -> int:
    """FLOPs of ``a @ b``, stacked; torch's own formula takes a sparse matrix for a full one."""
    entries = a._nnz() if a.is_sparse else a.numel()
    return 2 * entries * b.shape[-1]


_product._get_raw = True  # type: ignore[attr-defined]  # torch's mark of a formula that takes tensors, not shapes


def vector_bytes(n_sources: int, model: ModelConfig, sharing: SharingConfig) -> int:
    """Bytes of the sealed vectors for one target, up to the server and down again."""
    return 2 * n_sources * (shared_bytes(model, sharing) + ENVELOPE_BYTES)


def rounds_bytes(n_sites: int, rounds: int, n_numbers: int) -> int:
    """Bytes of federated averaging of ``n_numbers`` float32: up in all rounds, down in all but the first, then once."""
    return n_sites * (2 * rounds - 1) * 4 * n_numbers + 4 * n_numbers
