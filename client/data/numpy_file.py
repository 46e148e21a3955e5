"""Reads feature files that NumPy wrote: an array in ``.npy``, or ``features`` in ``.npz``.

slide2vec writes ``features`` (N, D) and ``tile_index`` (N,) into ``.npz``, and the coords into a file of their own.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fedsteph.client.data.source import Source, no_features_key, too_few_bytes
from fedsteph.common.errors import FeatureFileError

MAGIC = b"\x93NUMPY"
_MEMBER = "features.npy"


def is_npz(path: Path) -> bool:
    """Whether a zip file holds arrays of NumPy alone; PyTorch's files are zip files too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


@contextmanager
def open_npy(path: Path) -> Iterator[Source]:
    """Map the array of a ``.npy`` file, so that its header can be read without its values. No pickle is loaded.

    Raises:
        FeatureFileError: it holds objects, or fewer values than its header states.
    """
    with path.open("rb") as file:
        shape, dtype = _header(file, path.stat().st_size)
    yield Source("npy", shape, dtype.name, dtype.kind == "f", lambda: _as_float32(np.load(path, mmap_mode="r")))


@contextmanager
def open_npz(path: Path) -> Iterator[Source]:
    """Read the header of ``features`` in a ``.npz`` file; each member has a checksum, which zip verifies."""
    with zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            raise no_features_key(sorted(name.removesuffix(".npy") for name in archive.namelist()))
        with archive.open(_MEMBER) as file:
            shape, dtype = _header(file, archive.getinfo(_MEMBER).file_size)
    yield Source("npz", shape, dtype.name, dtype.kind == "f", lambda: _of_member(path))


def _header(file: IO[bytes], n_bytes: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in a file of ``n_bytes``, which must hold its values and nothing more."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise FeatureFileError(f"is of NumPy's format {version}", remedy="Save the features with numpy.save")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise FeatureFileError("holds objects, not numbers", remedy="Save the features alone, as a float array")
    stored, needed = n_bytes - file.tell(), int(np.prod(shape, dtype=object)) * dtype.itemsize
    if stored != needed:
        raise too_few_bytes(stored, needed)
    return shape, dtype


def _of_member(path: Path) -> npt.NDArray[np.float32]:
    with np.load(path, allow_pickle=False) as arrays:
        return _as_float32(arrays["features"])


def _as_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32)
