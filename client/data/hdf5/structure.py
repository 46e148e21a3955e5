"""What the helper process reports of an HDF5 feature file; loads no h5py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedsteph.client.data.hdf5.pieces import Pieces

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
    pieces: Pieces | None  # the features' places in the file, where they are known and HDF5 is not needed
    coords_pieces: Pieces | None

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Structure:
        """The structure whose fields went through JSON, which has lists for tuples."""
        read: dict[str, Callable[[Any], Any]] = {
            "shape": tuple,
            "coords": tuple,
            "pieces": Pieces.of_json,
            "coords_pieces": Pieces.of_json,
        }
        return cls(**{name: read[name](x) if name in read and x is not None else x for name, x in fields.items()})
