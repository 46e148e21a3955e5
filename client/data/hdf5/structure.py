"""What the helper process reports of an HDF5 feature file; loads no h5py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEATURES, COORDS = "features", "coords"
STAMP_FEATURES = "feats"  # STAMP's name


@dataclass(frozen=True)
class Structure:
    """Header of a feature file whose values are all stored; None for what it does not state."""

    shape: tuple[int, ...]  # of the features, as stored; () if the dataset has no dataspace
    dtype: str  # NumPy's name of the features' type
    floating: bool  # whether the features are floating-point numbers
    encoder: str | None
    magnification: float | None
    coords: tuple[int, ...] | None  # shape of the coords; None also if they are no numbers
    name: str  # of the features' dataset: FEATURES or STAMP_FEATURES
    facts: Mapping[str, float]  # numbers stored with the coords, else with the features or the file, by name
    unit: str | None  # of the coords

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Structure:
        """The structure whose fields went through JSON, which has lists for tuples."""
        coords = fields["coords"]
        return cls(**{**fields, "shape": tuple(fields["shape"]), "coords": None if coords is None else tuple(coords)})
