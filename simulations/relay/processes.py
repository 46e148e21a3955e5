"""Finds a benchmark's Flower processes, and measures their peak memory and CPU time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from fedsteph.simulations.memory import memory_of

SAMPLE_SECONDS = 0.1  # between two looks, so that short-lived processes are seen as well
PROGRAMS = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "ServerApp",
    "flower-supernode": "SuperNode",
    "guard.py": "ClientApp",  # which stands in for flwr-clientapp
    "flower-superexec": "SuperExec",  # the larger of both
}


def running() -> Iterator[tuple[str, psutil.Process]]:
    """The Flower processes below this one, each with its role."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            words = {Path(word).name for word in process.cmdline()[:4]}
            for name in words.intersection(PROGRAMS):
                yield PROGRAMS[name], process


def look(peaks: dict[str, int]) -> None:
    """Update the peak resident memory (VmHWM), in bytes, of these processes by role."""
    for role, process in running():
        with contextlib.suppress(psutil.Error, OSError):
            peaks[role] = max(peaks.get(role, 0), memory_of("VmHWM", process.pid))


def cpu_seconds(role: str) -> float:
    """The CPU time that the processes of one role have used so far."""
    return sum(sum(process.cpu_times()[:2]) for found, process in running() if found == role)
