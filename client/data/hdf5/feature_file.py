"""Opens HDF5 feature files in the layouts of TRIDENT, CLAM, STAMP and the published UNI2-h features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsteph.client.data.hdf5.guarded_headers import structure_of
from fedsteph.client.data.hdf5.structure import COORDS, STAMP_FEATURES, Structure
from fedsteph.client.data.source import Coords, Source
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.errors import FeatureFileError

MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: Path) -> Iterator[Source]:
    """Have the structure checked by the helper process; only then, and only on request, values are read here.

    TRIDENT states an encoder and a magnification, CLAM neither, and both the size of a patch. UNI2-h features have a
    leading axis of length 1. STAMP calls the features ``feats`` and may state the encoder as ``extractor``. Errors as
    :func:`structure_of`.
    """
    found = structure_of(path)
    yield Source(
        _layout(found),
        found.shape,
        found.dtype,
        found.floating,
        lambda: _values(path),
        Extraction(found.encoder, _stated(found.magnification), _stated(found.facts.get("patch_size"))),
        None if found.coords is None else lambda: _coords(path),
        found.coords,
    )


def _layout(found: Structure) -> str:
    if found.name == STAMP_FEATURES:
        return "stamp"
    stated = found.encoder is not None or found.magnification is not None
    return "uni2-h" if len(found.shape) == 3 else "trident" if stated else "clam"


def _stated(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _values(path: Path) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        found = structure_of(path, every_chunk=True)
        return np.asarray(_read(path, found.name, found.shape), dtype=np.float32)


def _coords(path: Path) -> Coords:
    found = structure_of(path, every_chunk=True)
    if found.name == STAMP_FEATURES:
        what = "has coords in micrometres, as STAMP writes them, and no size of a pixel"
        remedy = "Give a file of the same slide with coords in pixels at level 0, as TRIDENT and CLAM write them"
        raise FeatureFileError(what, remedy=remedy)
    xy = np.asarray(_read(path, COORDS, found.coords), dtype=np.float64)
    return Coords(xy.reshape(-1, 2), found.facts)


def _read(path: Path, name: str, shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
    import h5py  # noqa: PLC0415 (headers need none)

    with h5py.File(path, "r", locking="best-effort") as file:
        dataset = file[name]
        if dataset.shape != shape:
            raise FeatureFileError("was changed while it was read", remedy="Try again when its writing is over")
        values: npt.NDArray[Any] = dataset[...]
        if dataset.chunks is not None:
            _require_found(dataset, values)
        return values


def _require_found(dataset: Any, values: npt.NDArray[Any]) -> None:
    """Read each chunk of zeros again, by itself: in a damaged index, a chunk that is listed may not be found."""
    used = values != 0
    for axis, (length, side) in enumerate(zip(dataset.shape, dataset.chunks, strict=True)):
        used = np.logical_or.reduceat(used, range(0, length, side), axis=axis)
    for place in np.argwhere(~used):
        dataset.id.read_direct_chunk(tuple((place * dataset.chunks).tolist()))
