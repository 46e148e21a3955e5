"""Starts a benchmark's processes on a leash, and measures the peak memory of each."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fedsteph.common.deployment.flower_programs import QUIET
from fedsteph.common.errors import EngineError
from fedsteph.simulations.memory import memory_of

_SAMPLE_SECONDS = 0.1
PROGRAMS = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "ServerApp",
    "flower-supernode": "SuperNode",
    "guard.py": "ClientApp",  # which stands in for flwr-clientapp
    "flower-superexec": "SuperExec",  # the larger of both
}


class Leashed:
    """A program that is ended, with its descendants, when the ``with`` block or this process ends.

    Args:
        log: file for the program's output.
    """

    def __init__(self, script: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedsteph.simulations.run.leash", str(script)],
                env={**os.environ, **QUIET},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through the leash, and only once
            )

    def __enter__(self) -> Leashed:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def require_alive(self) -> None:
        """Check that the program is running.

        Raises EngineError if it has ended (the error shows the end of its log, since the file may be deleted soon).
        """
        if (code := self._process.poll()) is not None:
            tail = self._log.read_text(errors="replace")[-3000:]
            raise EngineError(f"ended with code {code}", where=self._log.stem, details=tail)


class Memory:
    """Peak resident memory (VmHWM) in bytes of every Flower process below this one, by program."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}

    @contextmanager
    def watching(self) -> Iterator[Memory]:
        """Look every 0.1 s until the block ends, so that short-lived processes are seen as well."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_SAMPLE_SECONDS):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def look(self) -> None:
        """Read the peak memory of every process once."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                words = {Path(word).name for word in process.cmdline()[:3]}
                for name in words.intersection(PROGRAMS):
                    role = PROGRAMS[name]
                    self.peaks[role] = max(self.peaks.get(role, 0), memory_of("VmHWM", process.pid))


def free_ports(n: int) -> list[int]:
    """``n`` different free TCP ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
