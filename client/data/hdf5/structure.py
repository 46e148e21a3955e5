"""What the helper process reports of an HDF5 feature file; loads no h5py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEATURES, COORDS = "features", "coords"


@dataclass(frozen=True)
class Structure:
    """Header of a feature file whose values are all stored.

    Args:
        shape: of the features, as stored; () if the dataset has no dataspace.
        dtype: NumPy's name of the features' type.
        floating: whether the features are floating-point numbers.
        encoder, magnification: None if the file does not state them.
        coords: shape of the coords; None if there are none, or if they are no numbers.
        facts: the numbers stored with the coords, by name.
    """

    shape: tuple[int, ...]
    dtype: str
    floating: bool
    encoder: str | None
    magnification: float | None
    coords: tuple[int, ...] | None
    facts: Mapping[str, float]

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Structure:
        """The structure whose fields went through JSON, which has lists for tuples."""
        coords = fields["coords"]
        return cls(**{**fields, "shape": tuple(fields["shape"]), "coords": None if coords is None else tuple(coords)})
