"""Reads HDF5 feature files in the layouts of TRIDENT, CLAM and the published UNI2-h features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fedsteph.client.data.source import Coords, Source, no_features_key, too_few_bytes
from fedsteph.common.errors import FeatureFileError

MAGIC = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: Path) -> Iterator[Source]:
    """Open the dataset ``features``; its values are read only on request.

    TRIDENT states the encoder in the attribute ``encoder`` of ``features``, and the magnification in
    ``target_magnification`` of ``coords``. CLAM states neither. UNI2-h features have a leading axis of length 1.

    Raises:
        FeatureFileError: there is no dataset ``features``, or it was not written in full.
    """
    # Network file systems often cannot lock. A file that another process is writing is still refused.
    with h5py.File(path, "r", locking="best-effort") as file:
        if "features" not in file:
            raise no_features_key(sorted(file))
        dataset, coords = file["features"], file.get("coords")
        if not isinstance(dataset, h5py.Dataset):
            raise FeatureFileError("'features' is a group", remedy="Store one dataset (n_instances, d) there")
        encoder = _text(dataset.attrs.get("encoder"))
        magnification = None if coords is None else _number(coords.attrs.get("target_magnification"))
        shape = tuple(dataset.shape or ())
        layout = "uni2-h" if len(shape) == 3 else "clam" if encoder is None and magnification is None else "trident"
        yield Source(
            layout,
            shape,
            dataset.dtype.name,
            dataset.dtype.kind == "f",
            lambda: _values(dataset),
            encoder,
            magnification,
            None if coords is None else lambda: _coords(coords),
        )


def _values(dataset: Any) -> npt.NDArray[np.float32]:
    # HDF5 silently returns zeros for values that were never written.
    stored, compressed = dataset.id.get_storage_size(), dataset.id.get_create_plist().get_nfilters() > 0
    if stored < (1 if compressed else dataset.nbytes):
        raise too_few_bytes(stored, dataset.nbytes)
    with np.errstate(over="ignore"):
        return np.asarray(dataset[...], dtype=np.float32)


def _coords(dataset: Any) -> Coords:
    facts = {name: number for name, value in dataset.attrs.items() if (number := _number(value)) is not None}
    if dataset.size and not dataset.id.get_storage_size():
        raise FeatureFileError("has coords that were never written", remedy="Extract the slide again")
    xy = np.asarray(dataset[...], dtype=np.float64)
    return Coords(xy.reshape(-1, 2) if xy.size and xy.shape[-1] == 2 else xy, facts)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    try:
        number = float(value) if np.ndim(value) == 0 else float(np.max(value))  # CLAM stores one number per axis
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
