"""Reads a dataset whose chunks are stored as they are, straight from the file: HDF5 looks up every chunk by itself.

Extractors write chunks of one row each, thousands to a slide, and most of them lie one after another in the file.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsteph.common.errors import FeatureFileError


def is_plain(dataset: Any) -> bool:
    """Whether the dataset is stored in chunks of whole rows, without a filter."""
    shape, chunks, axis = dataset.shape, dataset.chunks, _axis_of_rows(dataset.shape)
    if chunks is None or dataset.id.get_create_plist().get_nfilters():
        return False
    return bool(chunks[:axis] == shape[:axis] and chunks[axis + 1 :] == shape[axis + 1 :])


def read_plain(dataset: Any, path: Path) -> npt.NDArray[Any]:
    """All values of a dataset that :func:`is_plain`, and that the helper process found whole, in its shape.

    Raises:
        FeatureFileError: the file ends before its last chunk: it was changed since then.
    """
    listed: list[Any] = []
    dataset.id.chunk_iter(listed.append)
    places, _, at, sizes = zip(*listed, strict=True)
    first_rows = np.array(places)[:, _axis_of_rows(dataset.shape)]
    starts = np.array(at, dtype=np.int64)[np.argsort(first_rows)]
    stored = np.empty((len(listed), sizes[0]), dtype=np.uint8)
    breaks = np.flatnonzero(np.diff(starts) != sizes[0]) + 1  # between chunks that do not lie one after another
    with path.open("rb", buffering=0) as file:
        for first, last in pairwise([0, *breaks.tolist(), len(listed)]):
            file.seek(int(starts[first]))
            _fill(file, stored[first:last].data.cast("B"))
    values: npt.NDArray[Any] = stored.reshape(-1).view(dataset.dtype)
    return values[: dataset.size].reshape(dataset.shape)  # the last chunk may be longer than what is left


def _axis_of_rows(shape: tuple[int, ...]) -> int:
    """The axis of instances: behind the leading one of length 1 that files of UNI2-h have."""
    return 1 if len(shape) == 3 and shape[0] == 1 else 0


def _fill(file: Any, space: memoryview) -> None:
    while space:
        n = file.readinto(space)
        if not n:
            raise FeatureFileError("was changed while it was read", remedy="Try again when its writing is over")
        space = space[n:]
