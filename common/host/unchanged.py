"""Remembers in memory what was read from files, as long as the files do not change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

_MOST_FILES = 100_000  # about 50 MB of headers
# File timestamps are coarse: a second change within this time after the first may not show in them.
_SETTLED_NS = 2_000_000_000

T = TypeVar("T")


class Unchanged(Generic[T]):
    """What was last read from each file, errors apart, while its inode, size and times of change are the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int, int], T] = {}

    def get(self, path: Path, read: Callable[[Path], T]) -> T:
        """Return what ``read(path)`` returns, from memory if the file has not changed since the last call."""
        try:
            status = path.stat()
        except OSError:
            return read(path)  # raises the error with its reason
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        key = (str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in self._known:
            return self._known[key]
        found = read(path)
        if time.time_ns() - changed > _SETTLED_NS:
            self._known[key] = found
            while len(self._known) > _MOST_FILES:
                del self._known[next(iter(self._known))]
        return found
