"""Turns a failed write into an error that names the path, the free space and what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsteph.common.errors import StorageError

_FULL = "Make room there and start the same command again"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "Raise this account's limit on the size of files (ulimit -f) and start the same command again",
    errno.EROFS: "Choose a folder on a disk that can be written",
    errno.EIO: "Check the disk: the system could not write it",
}


def free_bytes(path: Path) -> int:
    """Free space on the disk of a path, which need not exist yet."""
    present = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    return shutil.disk_usage(present).free


def is_of_the_disk(error: OSError) -> bool:
    """Whether a disk is full, damaged or read-only, or a limit on files is reached."""
    return error.errno in _REMEDIES


def require_room(path: Path) -> None:
    """Raise :class:`StorageError` if less than 1 MiB is free: whatever failed there failed for it."""
    if free_bytes(path) < 2**20:
        raise cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def cannot_write(path: Path | None, error: OSError) -> StorageError:
    """The error for a path, or for the output or a temporary file, that cannot be written."""
    reason = error.strerror or str(error)[:200]
    remedy = _REMEDIES.get(error.errno or 0, "Check the path, its permissions and the free space")
    if path is None:
        return StorageError(f"the output or a temporary file cannot be written ({reason})", remedy=remedy)
    try:
        room = f"{free_bytes(path) / 2**20:,.1f} MiB are free there"
    except OSError:
        room = "how much is free there cannot be told"
    return StorageError(f"cannot be written ({reason}; {room})", where=path, remedy=remedy)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the ``with`` block, turn every ``OSError`` into a :class:`StorageError` about ``path``."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
