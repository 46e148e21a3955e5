"""Runs a program and ends it, with all its descendants, when this process's standard input closes.

``python -m fedsteph.simulations.run.leash PROGRAM [ARGUMENT ...]``. The parent holds the other end of a pipe, so
nothing is left running even if the parent is killed. A SuperLink's run and Ray's workers start sessions of their own;
therefore descendants are looked up, not a process group. On Linux, this process adopts those whose parent has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from fedsteph.common.errors import EngineError

_GRACE_SECONDS = 8.0
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Leashed:
    """A program on a leash, which ends with the ``with`` block or this process; ``log`` is for its output."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path | None = None) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedsteph.simulations.run.leash", *command],
                cwd=cwd,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it through the leash, and only once
            )

    def __enter__(self) -> Leashed:
        return self

    def __exit__(self, *_: object) -> None:
        self.ask_to_end()
        self._process.wait()

    def ask_to_end(self) -> None:
        """Begin its end, for which the ``with`` block then waits."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def require_alive(self) -> None:
        """Raise EngineError, with the end of its log, which may be deleted soon, if the program has ended."""
        if self.code is not None:
            tail = self._log.read_text(errors="replace")[-3000:]
            raise EngineError(f"ended with code {self.code}", where=self._log.stem, details=tail)


def main(command: list[str]) -> int:
    """Run ``command`` until it ends, standard input closes, or SIGTERM or SIGINT arrives; returns its exit code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ended = threading.Event()

    def hold() -> None:
        while os.read(0, 4096):  # unbuffered: a buffered read cannot be abandoned when the program ends by itself
            pass
        ended.set()

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: ended.set())
    threading.Thread(target=hold, daemon=True).start()
    while not ended.wait(0.2) and child.poll() is None:
        pass
    child.terminate()
    _end_descendants(asked={child.pid})  # a SuperNode that is asked twice leaves without telling its SuperLink
    return child.wait()


def _end_descendants(asked: set[int]) -> None:
    """Ask every descendant once to end, those in ``asked`` excepted; after the grace time, kill what is left."""
    until = time.monotonic() + _GRACE_SECONDS
    while found := _descendants():
        late = time.monotonic() > until
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                if late:
                    process.kill()
                elif process.pid not in asked:
                    process.terminate()
        asked |= {process.pid for process in found}
        if hasattr(os, "WNOHANG"):
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass  # reaps adopted processes
        time.sleep(0.1)


def _descendants() -> list[psutil.Process]:
    """Processes below this one, zombies left out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
