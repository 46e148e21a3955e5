"""Writes files atomically: a reader sees the old content or the complete new content, never a part."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fedsteph.common.host.disk import writing


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write the concatenated ``parts`` to ``path``, by a temporary file in its folder that is flushed and renamed.

    A memoryview is not copied. Raises StorageError if they cannot be written (what was there before is unchanged).
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())
