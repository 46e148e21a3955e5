"""Opens HDF5 feature files as TRIDENT, CLAM and STAMP write them, and as the features of UNI2-h are published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedsteph.client.data.hdf5.guarded_headers import structure_of
from fedsteph.client.data.hdf5.opening import open_to_read
from fedsteph.client.data.hdf5.pieces import Pieces, changed
from fedsteph.client.data.hdf5.structure import COORDS, STAMP_FEATURES, Structure
from fedsteph.client.data.source import Coords, Source
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.errors import FeatureFileError

MAGIC = b"\x89HDF\r\n\x1a\n"
_MICROMETRES = {"um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"}
_PIXELS = {"", "px", "pixel", "pixels"}
_UM_AT_1X = 10.0  # size of a pixel at magnification 1, by the convention that 20x is 0.5 um


@contextmanager
def open_hdf5(path: Path) -> Iterator[Source]:
    """Have the structure checked by the helper process; only then, and only on request, values are read here.

    TRIDENT: ``features`` (N, D) with ``encoder``; ``coords`` (N, 2) with the magnification and the size of a patch.
    CLAM: the same, without attributes; its files of coords have the size of a patch. UNI2-h, as MahmoodLab publishes
    it: ``features`` (1, N, D), ``coords`` (1, N, 2). STAMP: ``feats`` (N, D), ``coords`` in micrometres, and the file's
    attributes ``extractor``, ``unit``, ``tile_size_um`` and ``tile_size_px`` (2.0: ``tile_size``; 1: none).
    Errors as :func:`structure_of`.
    """
    found = structure_of(path)
    yield Source(
        _layout(found),
        found.shape,
        found.dtype,
        found.floating,
        lambda: _values(path),
        _extraction(found),
        None if found.coords is None else lambda: _coords(path),
        found.coords,
    )


def _layout(found: Structure) -> str:
    if found.name == STAMP_FEATURES:
        return "stamp"
    stated = found.encoder is not None or found.magnification is not None
    return "uni2-h" if len(found.shape) == 3 else "trident" if stated else "clam"


def _extraction(found: Structure) -> Extraction:
    if found.name != STAMP_FEATURES:
        return Extraction(found.encoder, _stated(found.magnification), _stated(found.facts.get("patch_size")))
    pixels, side = _stated(found.facts.get("tile_size_px")), _stated(found.facts.get("tile_size_um"))
    return Extraction(found.encoder, _UM_AT_1X * pixels / side if pixels and side else None, pixels)


def _stated(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None


def _values(path: Path) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"), _unchanged(path) as found:
        return np.asarray(_read(path, found.name, found.shape, found.pieces), dtype=np.float32)


def _coords(path: Path) -> Coords:
    with _unchanged(path) as found:
        unit = _unit(found)
        xy = np.asarray(_read(path, COORDS, found.coords, found.coords_pieces), dtype=np.float64)
        return Coords(xy.reshape(-1, 2), found.facts, unit)


@contextmanager
def _unchanged(path: Path) -> Iterator[Structure]:
    """The structure, for a reading during which the file must stay as it was inspected."""
    before = _state(path)
    yield structure_of(path, every_chunk=True)
    if _state(path) != before:
        raise changed()


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _unit(found: Structure) -> Literal["pixels", "um"]:
    unit, stamp = (found.unit or "").strip().lower(), found.name == STAMP_FEATURES
    if unit in _MICROMETRES or (stamp and not unit and "tile_size_um" in found.facts):
        return "um"
    if stamp:
        what = "has coords in a unit that it does not state, as STAMP before version 2 wrote it"
        remedy = "Extract the slide again with STAMP 2, which states 'unit' and 'tile_size_um'"
        raise FeatureFileError(what, remedy=remedy)
    if unit in _PIXELS:
        return "pixels"
    remedy = "Store them in pixels at level 0, or in micrometres with 'um' in their attribute 'unit'"
    raise FeatureFileError(f"has coords in the unit '{unit}'", remedy=remedy)


def _read(path: Path, name: str, shape: tuple[int, ...] | None, pieces: Pieces | None) -> npt.NDArray[Any]:
    """A dataset's values, from their places in the file, or through HDF5 where only it can read them."""
    if pieces is not None:
        return pieces.read(path)
    with open_to_read(path) as file:
        dataset = file[name]
        if dataset.shape != shape:
            raise changed()
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
