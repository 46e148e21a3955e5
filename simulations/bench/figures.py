"""Figures common to all benchmarks: the spread of repeated timings, and a description of the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("fedsteph", "torch", "flwr", "cryptography", "safetensors")


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of ``repeats`` timings, in seconds."""

    median: float
    min: float
    max: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """The spread of at least one measurement."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def machine() -> dict[str, Any]:
    """The machine of the measurement, JSON-ready; ``load`` is the one-minute load average at the call."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


def machine_line(found: dict[str, Any]) -> str:
    """The result of :func:`machine` as one line of text."""
    return (
        f"{found['cores']} x {found['cpu']}, {found['memory_gib']} GiB, {found['system']}, "
        f"load {found['load']} at the start"
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown CPU"
