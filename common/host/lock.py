"""Locks a folder, so that only one process at a time works in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsteph.common.errors import RunFolderError


@contextmanager
def exclusive(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on ``folder`` during the block; the system releases it when the process ends or crashes.

    Raises RunFolderError if another process holds the lock, and ``wait`` is False.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 (no command's help needs it)

    folder.mkdir(parents=True, exist_ok=True)
    # The system's own lock: flock, or LockFileEx on Windows. A symbolic link in the file's place is not followed.
    lock = FileLock(folder / ".lock", mode=0o600)
    try:
        held = lock.acquire(blocking=wait)
    except Timeout as error:
        remedy = "Wait until it has ended, or work in another folder"
        raise RunFolderError("another process is working in this folder", where=folder, remedy=remedy) from error
    with held:
        yield
