"""Files that fedsteph writes for itself: each holds the SHA-256 of its content, which is checked when it is read.

A flipped bit on a disk would otherwise change results unnoticed. The digest finds accidents. Against someone who can
write the file it protects nothing. Files of versions that wrote no digest are read with one warning per process.
Model files and vector files hold theirs in their header (:mod:`fedsteph.common.vector.tensor_file`).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fedsteph.common.errors import FedstephError, ModelFileError
from fedsteph.common.host import atomic

KEY = "sha256"
AGAIN = "Run the same command again: it is made anew"
_MARK = f"\n{KEY}:".encode()
_TRAILER = len(_MARK) + 64 + 1
_ZIP_END = b"PK\x05\x06"  # begins the last 22 bytes of a zip file without a comment

_log = logging.getLogger(__name__)
T = TypeVar("T")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented, strict JSON atomically, with the digest as its last key; NaN and Inf raise ValueError."""
    atomic.write_bytes(path, _encoded(content))


def read_json(path: Path, error: type[FedstephError] = ModelFileError, remedy: str = AGAIN) -> dict[str, Any]:
    """Read a file of :func:`write_json` without its digest. Raises ``error`` with ``remedy`` if it is damaged."""
    raw = path.read_bytes()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _is_whole(raw, found):
        raise error("is damaged", where=path, remedy=remedy)
    return found


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write named arrays atomically in numpy's ``.npz`` format; ``numpy.load`` reads it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path, error: type[FedstephError] = ModelFileError, remedy: str = AGAIN) -> dict[str, np.ndarray]:
    """Read a file of :func:`write_arrays`; errors as :func:`read_json`."""
    content = read_bytes(path, error, remedy)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception as reason:  # a damaged file of an earlier version: zipfile and numpy raise many types
        raise error("is damaged", where=path, remedy=remedy) from reason


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes (``.npz``, a checkpoint, a kept vector) atomically, with their digest in a line behind them."""
    atomic.write_bytes(path, content, _MARK + _sha256(content) + b"\n")


def read_bytes(path: Path, error: type[FedstephError] = ModelFileError, remedy: str = AGAIN) -> bytes:
    """Read a file of :func:`write_bytes`, without the digest; errors as :func:`read_json`."""
    raw = path.read_bytes()
    content = raw[:-_TRAILER]
    if raw[-_TRAILER:] == _MARK + _sha256(content) + b"\n":
        return content
    if raw[-22:-18] != _ZIP_END:
        raise error("is damaged", where=path, remedy=remedy)
    tell_of_old_files()
    return raw


def kept(path: Path, read: Callable[[Path], T]) -> T | None:
    """What ``read`` finds in a file of earlier work; None without one. A damaged one is set aside with a warning."""
    try:
        return read(path)
    except FileNotFoundError:  # also where another process has just finished with it
        return None
    except ModelFileError as error:
        if not path.exists():
            return None
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        _log.warning("%s %s; it is set aside as %s and made again", path, error.what, aside.name)
        return None


@functools.cache
def tell_of_old_files() -> None:
    """Warn, once per process, that files of an earlier version were read."""
    _log.warning("files of an earlier version hold no digest, so that damage to them can go unnoticed")


def _encoded(content: Mapping[str, Any]) -> bytes:
    plain = json.dumps(content, indent=2, allow_nan=False)
    digest = _sha256(plain.encode()).decode()
    return (json.dumps({**content, KEY: digest}, indent=2, allow_nan=False) + "\n").encode()


def _is_whole(raw: bytes, found: dict[str, Any]) -> bool:
    """Remove the digest from the parsed content; whether it is right, or the file is of a version that wrote none."""
    last = next(reversed(found.values()), None)
    if found.pop(KEY, None) is not None:
        try:
            return _encoded(found) == raw
        except ValueError:  # NaN or Inf
            return False
    tell_of_old_files()
    return not (isinstance(last, str) and len(last) == 64)  # that is a digest whose key was damaged


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
