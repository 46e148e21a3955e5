"""Common interface of the feature-file readers: header facts, and functions that read the values on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsteph.common.config.extraction import UNSTATED, Extraction
from fedsteph.common.errors import FeatureFileError, WidthError

ALIGNED = 64  # bytes: where a bag begins in memory, as PyTorch's own tensors do


@dataclass(frozen=True)
class Coords:
    """Positions of a slide's patches, as stored in its file."""

    xy: npt.NDArray[np.float64]  # (n_instances, 2) left and upper edge, in ``unit``
    facts: Mapping[str, float]  # the numbers stored with the positions or in the file, under the file's own names
    unit: Literal["pixels", "um"] = "pixels"  # pixels at level 0, or micrometres


@dataclass(frozen=True)
class Source:
    """An open feature file whose values have not been read; shapes are as stored."""

    layout: str
    shape: tuple[int, ...]  # (n_instances, d), (1, n_instances, d), or one that is refused later
    dtype: str
    floating: bool  # whether the values are floating-point numbers
    values: Callable[[], npt.NDArray[np.float32]]  # reads them, in the stored shape
    extraction: Extraction = UNSTATED  # how the features were made
    coords: Callable[[], Coords] | None = None  # reads the patches' positions; None if there are none
    coords_shape: tuple[int, ...] | None = None


def without_leading_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the leading axis of length 1 that UNI2-h files have."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def told_briefly(error: Exception) -> str:
    """A library's error in at most 200 characters, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def no_features_key(keys: list[str]) -> FeatureFileError:
    """The error for a file without ``features``; it lists the keys found."""
    found = ", ".join(map(repr, keys[:10])) or "nothing"
    return FeatureFileError(
        f"holds no 'features'; it holds {found}", remedy="Store the features under the key 'features'"
    )


def transposed(rows: int, columns: int) -> WidthError:
    """The error for features that lie ``(d, n_instances)``; it says how many rows and columns there are."""
    what = f"looks transposed: its features are ({rows}, {columns}), which is (d, n_instances)"
    return WidthError(what, remedy="Store the array's .T, one row of features per patch")


def too_few_bytes(stored: int, needed: int, name: str = "features") -> FeatureFileError:
    """The error for a file with fewer bytes of features than its header declares."""
    return FeatureFileError(
        f"promises {needed} bytes of {name} and holds {stored}",
        remedy="Its writing was cut short: extract the slide again",
    )
