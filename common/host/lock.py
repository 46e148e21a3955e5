"""Locks a folder, so that only one process at a time works in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsteph.common.errors import RunFolderError


@contextmanager
def exclusive(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on ``folder`` during the block; the system releases it when the process ends or crashes.

    Raises RunFolderError if another process holds the lock, and ``wait`` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            remedy = "Wait until it has ended, or choose another --out"
            raise RunFolderError("another process is working in this folder", where=folder, remedy=remedy) from error
        yield
