"""Reads values that an HDF5 file stores as they are, without HDF5: the helper process has said where they lie.

HDF5 looks up every chunk by itself. Extractors write chunks of one row, thousands to a slide, and most of them lie one
after another. So this is faster, and what is read is what was checked: a damaged index is not looked at again.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsteph.client.data.source import ALIGNED
from fedsteph.common.errors import FeatureFileError


@dataclass(frozen=True)
class Pieces:
    """Where the values of a dataset lie, in their order, without a filter."""

    dtype: str  # NumPy's, with the order of bytes
    shape: tuple[int, ...]
    starts: Sequence[int]  # first byte of each piece in the file
    sizes: Sequence[int]  # bytes; of the last one, some may lie behind the values

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Pieces:
        """The pieces whose fields went through JSON; many files' are remembered, so they are packed."""
        starts, sizes = array("q", fields["starts"]), array("q", fields["sizes"])
        return cls(fields["dtype"], tuple(fields["shape"]), starts, sizes)

    def read(self, path: Path) -> npt.NDArray[Any]:
        """The values, in memory that a bag can be made of without a copy.

        Raises:
            FeatureFileError: the file ends before them: it was changed since it was inspected.
        """
        stored = _aligned(sum(self.sizes))
        space = stored.data
        with path.open("rb", buffering=0) as file:
            for start, size in zip(self.starts, self.sizes, strict=True):
                file.seek(start)
                _fill(file, space[:size])
                space = space[size:]
        values: npt.NDArray[Any] = stored[: math.prod(self.shape) * np.dtype(self.dtype).itemsize].view(self.dtype)
        return values.reshape(self.shape)


def changed() -> FeatureFileError:
    """The error for a file that is not what it was when it was inspected."""
    return FeatureFileError("was changed while it was read", remedy="Try again when its writing is over")


def _aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    room = np.empty(n_bytes + ALIGNED, dtype=np.uint8)
    first = -room.ctypes.data % ALIGNED
    return room[first : first + n_bytes]


def _fill(file: Any, space: memoryview) -> None:
    while space:
        n = file.readinto(space)
        if not n:
            raise changed()
        space = space[n:]
