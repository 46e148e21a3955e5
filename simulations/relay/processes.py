"""Measures the peak memory of a benchmark's processes."""

from __future__ import annotations

import contextlib
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


def look(peaks: dict[str, int]) -> None:
    """Update the peak resident memory (VmHWM), in bytes, of the Flower processes below this one, by program."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            words = {Path(word).name for word in process.cmdline()[:4]}
            for name in words.intersection(PROGRAMS):
                role = PROGRAMS[name]
                peaks[role] = max(peaks.get(role, 0), memory_of("VmHWM", process.pid))
