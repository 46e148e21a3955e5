"""Measures the peak memory of a benchmark's processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fedsteph.simulations.memory import looking, memory_of

_SAMPLE_SECONDS = 0.1
PROGRAMS = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "ServerApp",
    "flower-supernode": "SuperNode",
    "guard.py": "ClientApp",  # which stands in for flwr-clientapp
    "flower-superexec": "SuperExec",  # the larger of both
}


class Memory:
    """Peak resident memory (VmHWM) in bytes of every Flower process below this one, by program."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}

    @contextmanager
    def watching(self) -> Iterator[Memory]:
        """Look every 0.1 s until the block ends, so that short-lived processes are seen as well."""
        with looking(self.look, _SAMPLE_SECONDS):
            yield self

    def look(self) -> None:
        """Read the peak memory of every process once."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                words = {Path(word).name for word in process.cmdline()[:3]}
                for name in words.intersection(PROGRAMS):
                    role = PROGRAMS[name]
                    self.peaks[role] = max(self.peaks.get(role, 0), memory_of("VmHWM", process.pid))
