"""Run a program on a leash: when this process's standard input closes, the program and all it started end.

``python -m fedsteph.simulations.run.leash PROGRAM [ARGUMENT ...]``. Whoever starts it holds the other end of a pipe, so
that even a parent that was killed outright leaves nothing behind. A SuperLink's run and Ray's workers put themselves
into sessions of their own, so they are found by descent (Linux: orphans among them become this process's children);
elsewhere, where /proc is missing, the program itself is ended and its children end when they miss it.
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
from pathlib import Path

_GRACE_SECONDS = 8.0
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main(command: list[str]) -> int:
    """Start ``command`` and wait for it, or for the leash to be let go."""
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
    _end_descendants(asked={child.pid})  # asked twice, a SuperNode leaves without saying so to its SuperLink
    return child.wait()


def _end_descendants(asked: set[int]) -> None:
    until = time.monotonic() + _GRACE_SECONDS
    while found := _descendants():
        late = time.monotonic() > until
        for pid in found - (set() if late else asked):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= found
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # orphans that became our children, reaped
        time.sleep(0.1)


def _descendants() -> set[int]:
    """Process ids below this one, zombies left out."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(status.parent.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            found.add(pid)
            waiting.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
