"""Common interface of the feature-file readers: header facts, and functions that read the values on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsteph.common.errors import FeatureFileError


@dataclass(frozen=True)
class Coords:
    """Positions of a slide's patches, as stored in its file.

    Args:
        xy: ``(n_instances, 2)`` left and upper edge, in pixels at level 0.
        facts: the numbers stored with the positions, under the file's own names.
    """

    xy: npt.NDArray[np.float64]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Source:
    """An open feature file whose values have not been read.

    Args:
        shape: as stored: ``(n_instances, d)``, ``(1, n_instances, d)``, or a shape that is refused later.
        floating: whether the values are floating-point numbers.
        values: reads the values as float32, in the stored shape.
        coords: reads the positions of the patches, given as pairs; None if the file has none.
        coords_shape: as stored.
    """

    layout: str
    shape: tuple[int, ...]
    dtype: str
    floating: bool
    values: Callable[[], npt.NDArray[np.float32]]
    encoder: str | None = None
    magnification: float | None = None
    patch_size: float | None = None
    coords: Callable[[], Coords] | None = None
    coords_shape: tuple[int, ...] | None = None

    @property
    def n_coords(self) -> int | None:
        """The number of positions; None if the file has none."""
        return None if self.coords_shape is None else (*without_leading_one(self.coords_shape), 0)[0]


def without_leading_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the leading axis of length 1 that UNI2-h files have."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape


def no_features_key(keys: list[str]) -> FeatureFileError:
    """The error for a file without ``features``; it lists the keys found."""
    found = ", ".join(map(repr, keys[:10])) or "nothing"
    return FeatureFileError(
        f"holds no 'features'; it holds {found}", remedy="Store the features under the key 'features'"
    )


def too_few_bytes(stored: int, needed: int, name: str = "features") -> FeatureFileError:
    """The error for a file with fewer bytes of features than its header declares."""
    return FeatureFileError(
        f"promises {needed} bytes of {name} and holds {stored}",
        remedy="Its writing was cut short: extract the slide again",
    )
