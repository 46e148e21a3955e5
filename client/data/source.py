"""What a reader of feature files hands over: the header's facts, and a way to the values when wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsteph.common.errors import FeatureFileError


@dataclass(frozen=True)
class Coords:
    """Where a slide's patches lie, as its file has it.

    Args:
        xy: ``(n_instances, 2)`` left and upper edge, in pixels of the slide's level 0.
        facts: the numbers that the file states beside them, by the names that it uses.
    """

    xy: npt.NDArray[np.float64]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Source:
    """An open feature file, its values unread.

    Args:
        shape: as stored: ``(n_instances, d)``, ``(1, n_instances, d)``, or something that is refused.
        floating: whether the values are floating-point numbers.
        values: reads them as float32, in the stored shape.
        coords: reads where the patches lie; None where the layout has no place for it.
    """

    layout: str
    shape: tuple[int, ...]
    dtype: str
    floating: bool
    values: Callable[[], npt.NDArray[np.float32]]
    encoder: str | None = None
    magnification: float | None = None
    coords: Callable[[], Coords] | None = None


def no_features_key(keys: list[str]) -> FeatureFileError:
    """The error of a file without ``features``, which names the keys that it has."""
    found = ", ".join(map(repr, keys[:10])) or "nothing"
    return FeatureFileError(
        f"holds no 'features'; it holds {found}", remedy="Store the features under the key 'features'"
    )


def too_few_bytes(stored: int, needed: int) -> FeatureFileError:
    """The error of a file whose header promises more values than were ever written."""
    return FeatureFileError(
        f"promises {needed} bytes of features and holds {stored}",
        remedy="Its writing was cut short: extract the slide again",
    )
