"""Lets a process that trains keep the memory of one step for the next."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of its options, mallopt(3)
_KEPT_BYTES = 256 * 2**20
_LARGE_BYTES = 32 * 2**20  # the largest that glibc takes


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to 256 MiB that it has freed; blocks above 32 MiB still go back to the system at once.

    By itself glibc gives the memory of a step back and takes it again for the next step, page by page: a sixth of the
    time of small steps. Nothing happens with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
