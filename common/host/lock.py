"""One process at a time in a folder that several could be asked to work in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsteph.common.errors import RunFolderError


@contextmanager
def exclusive(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold ``folder`` for the block; the system lets go of it when the process ends, however it ends.

    Args:
        wait: wait for whoever holds it, instead of raising.

    Raises:
        RunFolderError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RunFolderError(
                "another process is working in this folder",
                where=folder,
                remedy="Wait until it has ended, or choose another --out",
            ) from error
        yield
