"""Finds where an HDF5 file stores its values, and checks it: all of them, inside the file, and none over another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from fedsteph.client.data.hdf5.pieces import Pieces
from fedsteph.client.data.source import too_few_bytes, without_leading_one
from fedsteph.common.errors import FeatureFileError

_Extents = npt.NDArray[np.uint64]  # (n, 2): first byte in the file, number of bytes
_NONE: _Extents = np.empty((0, 2), np.uint64)


def places_of(datasets: Sequence[Any], n_bytes: int, every_chunk: bool) -> list[Pieces | None]:
    """Check that every value of the datasets is stored in the file itself; HDF5 reads missing ones as zeros.

    Args:
        n_bytes: size of the file.
        every_chunk: whether to look where each chunk is, besides counting them: 2 s for a million chunks.

    Returns:
        Where the values of each dataset lie; None if that was not looked at, or if only HDF5 can read them.

    Raises:
        FeatureFileError: values were never written, lie in another file, overlap, or lie beyond the end of the file.
    """
    for dataset in datasets:
        _require_own(dataset)
    found = [_extents(dataset, n_bytes, every_chunk) if dataset.size else _NONE for dataset in datasets]
    extents = np.concatenate([_NONE, *found])
    # In this order no sum overflows.
    if (extents > n_bytes).any() or (extents.sum(axis=1) > n_bytes).any():
        raise _damaged("it stores values beyond the end of the file")
    extents = extents[np.argsort(extents[:, 0])]
    if (extents[:-1].sum(axis=1) > extents[1:, 0]).any():
        raise _damaged("it stores values over others")
    return [_pieces(dataset, places) for dataset, places in zip(datasets, found, strict=True)]


def _pieces(dataset: Any, extents: _Extents) -> Pieces | None:
    settings = dataset.id.get_create_plist()
    if not len(extents) or settings.get_nfilters() or not _in_whole_rows(dataset.shape, dataset.chunks):
        return None
    apart = extents[1:, 0] != extents[:-1].sum(axis=1)  # from the chunk before it
    first = np.flatnonzero(np.append(True, apart))
    starts, sizes = extents[first, 0], np.add.reduceat(extents[:, 1], first)
    return Pieces(dataset.dtype.str, dataset.shape, starts.tolist(), sizes.tolist())


def _in_whole_rows(shape: tuple[int, ...], chunks: tuple[int, ...] | None) -> bool:
    """Whether chunks, if there are any, divide the instances alone."""
    return chunks is None or without_leading_one(chunks)[1:] == without_leading_one(shape)[1:]


def _require_own(dataset: Any) -> None:
    settings = dataset.id.get_create_plist()
    if settings.get_external_count() or settings.get_layout() == h5py.h5d.VIRTUAL:
        raise FeatureFileError(
            f"keeps its '{_name(dataset)}' in another file", remedy="Store the features in the file itself"
        )


def _extents(dataset: Any, n_bytes: int, every_chunk: bool) -> _Extents:
    layout, stored = dataset.id.get_create_plist().get_layout(), dataset.id.get_storage_size()
    if layout == h5py.h5d.CHUNKED:
        _require_count(dataset, n_bytes)
        return _chunks(dataset) if every_chunk else _NONE
    if stored < dataset.nbytes:
        raise too_few_bytes(stored, dataset.nbytes, _name(dataset))
    if stored > dataset.nbytes:
        raise _damaged(f"it stores {stored} bytes of '{_name(dataset)}' where {dataset.nbytes} belong")
    places = [(dataset.id.get_offset(), stored)] if layout == h5py.h5d.CONTIGUOUS else []
    return np.array(places, dtype=np.uint64).reshape(-1, 2)


def _require_count(dataset: Any, n_bytes: int) -> None:
    needed = math.prod(-(-length // side) for length, side in zip(dataset.shape, dataset.chunks, strict=True))
    if needed > n_bytes:  # a chunk has at least one byte
        raise too_few_bytes(n_bytes, dataset.nbytes, _name(dataset))
    found = dataset.id.get_num_chunks()
    if found < needed:
        raise FeatureFileError(
            f"promises {needed} chunks of '{_name(dataset)}' and holds {found}",
            remedy="Its writing was cut short: extract the slide again",
        )
    if found > needed:
        raise _damaged(f"it stores {found} chunks of '{_name(dataset)}' where {needed} belong")


def _chunks(dataset: Any) -> _Extents:
    """Every chunk, in the order of the values."""
    listed: list[Any] = []
    dataset.id.chunk_iter(listed.append)
    at, masks, starts, sizes = zip(*listed, strict=True)
    places = np.array(at, dtype=np.uint64)
    sides = np.array(dataset.chunks, dtype=np.uint64)
    if (places >= np.array(dataset.shape, dtype=np.uint64)).any() or (places % sides).any() or len({*at}) < len(at):
        raise _damaged("its index of chunks has one twice, or one out of place")
    lengths, left_out = np.array(sizes, dtype=np.uint64), np.array(masks, dtype=np.uint64)
    no_filter = (1 << dataset.id.get_create_plist().get_nfilters()) - 1  # a bit for each filter that was left out
    whole = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if (left_out > no_filter).any() or (lengths[left_out == no_filter] != whole).any() or None in starts:
        raise _damaged("its index of chunks states a wrong size")
    return np.stack([np.array(starts, dtype=np.uint64), lengths], axis=1)[np.lexsort(places.T[::-1])]


def _name(dataset: Any) -> str:
    return str(dataset.name).rpartition("/")[2]


def _damaged(what: str) -> FeatureFileError:
    return FeatureFileError(
        f"is damaged: {what}", remedy="Copy it again from where it was made, or extract the slide again"
    )
