"""Checks where an HDF5 file stores its values: all of them, inside the file, and none over another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import h5py

from fedsteph.client.data.source import too_few_bytes
from fedsteph.common.errors import FeatureFileError

_Extent = tuple[int, int]  # first byte in the file, number of bytes


def require_whole(datasets: Sequence[Any], n_bytes: int) -> None:
    """Check that every value of the datasets is stored in the file itself; HDF5 reads missing ones as zeros.

    Args:
        n_bytes: size of the file.

    Raises:
        FeatureFileError: values were never written, lie in another file, overlap, or lie beyond the end of the file.
    """
    extents: list[_Extent] = []
    for dataset in datasets:
        _require_own(dataset)
        if dataset.size:
            extents += _extents(dataset, n_bytes)
    extents.sort()
    overlap = any(start + length > following for (start, length), (following, _) in pairwise(extents))
    if overlap or any(start + length > n_bytes for start, length in extents[-1:]):
        raise _damaged("it stores values over others, or beyond the end of the file")


def _require_own(dataset: Any) -> None:
    settings = dataset.id.get_create_plist()
    if settings.get_external_count() or settings.get_layout() == h5py.h5d.VIRTUAL:
        raise FeatureFileError(
            f"keeps its '{_name(dataset)}' in another file", remedy="Store the features in the file itself"
        )


def _extents(dataset: Any, n_bytes: int) -> Iterator[_Extent]:
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.CHUNKED:
        yield from _chunks(dataset, n_bytes)
        return
    stored = dataset.id.get_storage_size()
    if stored < dataset.nbytes:
        raise too_few_bytes(stored, dataset.nbytes, _name(dataset))
    if stored > dataset.nbytes:
        raise _damaged(f"it stores {stored} bytes of '{_name(dataset)}' where {dataset.nbytes} belong")
    if layout == h5py.h5d.CONTIGUOUS:
        yield dataset.id.get_offset(), stored


def _chunks(dataset: Any, n_bytes: int) -> Iterator[_Extent]:
    shape, chunk = dataset.shape, dataset.chunks
    whole = math.prod(chunk) * dataset.dtype.itemsize
    n_filters = dataset.id.get_create_plist().get_nfilters()
    needed = math.prod(-(-length // side) for length, side in zip(shape, chunk, strict=True))
    if needed > n_bytes:  # a chunk has at least one byte
        raise too_few_bytes(n_bytes, dataset.nbytes, _name(dataset))
    found: dict[tuple[int, ...], Any] = {}

    def note(info: Any) -> None:
        at = info.chunk_offset
        if at in found or any(place >= length or place % side for place, length, side in zip(at, shape, chunk, strict=True)):
            raise _damaged("its index of chunks has one twice, or one out of place")
        unfiltered = info.filter_mask.bit_count() == n_filters
        if info.size == 0 or (unfiltered and info.size != whole) or info.byte_offset is None:
            raise _damaged("its index of chunks states a wrong size")
        found[at] = info

    dataset.id.chunk_iter(note)
    if len(found) < needed:
        raise FeatureFileError(
            f"promises {needed} chunks of '{_name(dataset)}' and holds {len(found)}",
            remedy="Its writing was cut short: extract the slide again",
        )
    for info in found.values():
        yield info.byte_offset, info.size


def _name(dataset: Any) -> str:
    return str(dataset.name).rpartition("/")[2]


def _damaged(what: str) -> FeatureFileError:
    return FeatureFileError(
        f"is damaged: {what}", remedy="Copy it again from where it was made, or extract the slide again"
    )
