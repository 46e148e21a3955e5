"""Headers of feature files, remembered while this process lives: a run looks at every file of a site many times."""

from __future__ import annotations

import time
from pathlib import Path

from fedsteph.client.data.formats import FeatureHeader, read_header

_MOST_FILES = 100_000  # about 50 MB
# Clocks of file systems are coarse: a file that was written just now may be written again without looking changed.
_SETTLED_NS = 2_000_000_000

_known: dict[tuple[str, int, int, int, int], FeatureHeader] = {}


def known_header(path: Path) -> FeatureHeader:
    """What :func:`read_header` reads, from memory where the file has not changed since it was read last.

    A file is the same as long as its inode, size, and times of change are. What could not be read is not remembered.

    Raises:
        FeatureFileError: as :func:`read_header` does.
    """
    try:
        status = path.stat()
    except OSError:
        return read_header(path)  # which says what is wrong with it
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
