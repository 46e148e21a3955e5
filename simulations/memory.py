"""Reads a process's memory use from Linux's ``/proc``."""

from __future__ import annotations

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
