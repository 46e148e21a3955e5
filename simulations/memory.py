"""Reads a process's memory use from Linux's ``/proc``, and looks at it again and again during a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Field = Literal["VmHWM", "VmRSS", "RssAnon"]


def memory_of(field: Field, pid: int | Literal["self"] = "self") -> int:
    """Memory in bytes: ``VmHWM`` peak resident, ``VmRSS`` resident now, ``RssAnon`` its anonymous part (no file pages).

    A process that is ending reports no memory: 0. Raises OSError if there is no such process, or the system has no
    ``/proc``.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


@contextmanager
def looking(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``look`` in a thread at once and then every so many ``seconds``, until the block ends."""
    done = threading.Event()

    def again() -> None:
        look()
        while not done.wait(seconds):
            look()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
