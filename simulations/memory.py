"""What Linux says of a process's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Field = Literal["VmHWM", "VmRSS", "RssAnon"]


def memory_of(field: Field, pid: int | Literal["self"] = "self") -> int:
    """Bytes: ``VmHWM`` the most that was resident, ``VmRSS`` what is, ``RssAnon`` the process's own part of it.

    A process that is ending has none left: 0.

    Raises:
        OSError: there is no such process, or this system does not say.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0
