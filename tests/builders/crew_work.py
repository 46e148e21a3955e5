"""Units of work for crews, which worker processes import by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from fedsteph.common.errors import DataError
from fedsteph.common.host.progress import Progress

_factor = 0


def begin(factor: int) -> None:
    global _factor  # noqa: PLW0603 (a worker process is one worker)
    if factor < 0:
        raise DataError("is negative", where="factor", remedy="Give a positive one")
    _factor = factor


def times(unit: int | str, progress: Progress) -> tuple[int, int]:
    """The product, and the worker; "killed" and "refused" do not come to an end."""
    progress(1, 2)
    if unit == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(unit, str):
        raise DataError(f"is {unit}", where="unit", remedy="Give a number")
    return _factor * unit, os.getpid()


def endless(unit: str, progress: Progress) -> None:
    """Write the worker's number to the file ``unit``, and wait for ever."""
    part = Path(f"{unit}.part")
    part.write_text(str(os.getpid()))
    part.rename(unit)
    signal.pause()
