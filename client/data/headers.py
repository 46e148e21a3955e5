"""Caches headers of feature files in memory, because a run reads the header of every file many times."""

from __future__ import annotations

import time
from pathlib import Path

from fedsteph.client.data.formats import FeatureHeader, read_header

_MOST_FILES = 100_000  # about 50 MB
# File timestamps are coarse: a second change within this time after the first may not show in them.
_SETTLED_NS = 2_000_000_000

_known: dict[tuple[str, int, int, int, int], FeatureHeader] = {}


def known_header(path: Path) -> FeatureHeader:
    """Return a file's header as :func:`read_header` does, from memory if the file has not changed since the last call.

    A file counts as unchanged if its inode, size and times of change are the same. Errors are not cached.

    Raises:
        FeatureFileError: as :func:`read_header` does.
    """
    try:
        status = path.stat()
    except OSError:
        return read_header(path)  # raises the error with its reason
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    key = (str(path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    header = _known.get(key)
    if header is None:
        header = read_header(path)
        if time.time_ns() - changed > _SETTLED_NS:
            _known[key] = header
            while len(_known) > _MOST_FILES:
                del _known[next(iter(_known))]
    return header
