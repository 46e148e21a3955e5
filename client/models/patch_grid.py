"""Reads the grid of a slide's patches at level 0: their positions, their side, and the size of the slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsteph.client.data.formats import read_coords
from fedsteph.client.data.source import Coords
from fedsteph.common.errors import FeatureFileError

_LARGEST = 1e8  # pixels; the largest slides have some 10^5 to a side
_SIZE = "Give the slide's true size at level 0 with --slide-size WIDTHxHEIGHT"
_MAJORITY = 0.6  # share of distances between neighbours that must equal the side of a patch


@dataclass(frozen=True)
class Grid:
    """A slide's patches as squares, in pixels at level 0."""

    xy: np.ndarray  # (n_instances, 2) left and upper edge
    patch: float  # side of a patch
    slide: tuple[float, float]  # width and height; the extent of the patches if the size is not stated
    known_size: bool  # whether the file or the user states the size of the slide


def read_grid(path: Path, patch: float | None = None, slide: tuple[float, float] | None = None) -> Grid:
    """Read a slide's grid from its feature file.

    Args:
        patch: side of a patch in pixels at level 0, instead of the file's value.
        slide: width and height, likewise.

    Raises:
        FeatureFileError: there are no positions, the side of a patch is neither stated nor clear from their
            distances, or a patch lies outside the slide.
    """
    found = read_coords(path)
    side = patch or _side(found, path)
    if not (0 < side <= _LARGEST and found.xy.max() <= _LARGEST):
        what = f"has a patch of {side:g} pixels, or one at {found.xy.max():g}: no slide is so large"
        raise FeatureFileError(what, where=path, remedy="Extract the slide again")
    size = slide
    if size is None and {"level0_width", "level0_height"} <= found.facts.keys():
        size = found.facts["level0_width"], found.facts["level0_height"]
    if size is not None and not 0 < min(size) <= max(size) <= _LARGEST:
        raise FeatureFileError(f"is of a slide of {size[0]:g} x {size[1]:g} pixels", where=path, remedy=_SIZE)
    if found.xy.min() < 0:
        what = "has a patch outside of the slide, at negative coords"
        raise FeatureFileError(what, where=path, remedy="Extract the slide again")
    if size is not None and (found.xy.max(axis=0) >= size).any():
        what = f"has a patch outside of the slide, which is {size[0]:g} x {size[1]:g} pixels"
        raise FeatureFileError(what, where=path, remedy=_SIZE)
    width, height = (found.xy.max(axis=0) + side).tolist()
    return Grid(found.xy, side, size or (width, height), size is not None)


def _side(found: Coords, path: Path) -> float:
    """Side of a patch from TRIDENT's or CLAM's attributes; else the most frequent distance between neighbours."""
    facts = found.facts
    if facts.get("patch_size_level0", 0) > 0:
        return facts["patch_size_level0"]
    if facts.get("patch_size", 0) > 0 and facts.get("downsample", 0) > 0:
        return facts["patch_size"] * facts["downsample"]
    gaps = np.concatenate([_gaps(found.xy), _gaps(found.xy[:, ::-1])])
    sides, counts = np.unique(gaps, return_counts=True)
    if not len(sides) or counts.max() < _MAJORITY * len(gaps):
        raise FeatureFileError(
            "does not say how wide a patch is", where=path, remedy="Give its side at level 0 with --patch-size"
        )
    return float(sides[counts.argmax()])


def _gaps(xy: np.ndarray) -> np.ndarray:
    """Distances between neighbours in a column; every tissue region has its own grid and offset."""
    ordered = xy[np.lexsort((xy[:, 1], xy[:, 0]))]
    steps = np.diff(ordered, axis=0)
    gaps: np.ndarray = steps[(steps[:, 0] == 0) & (steps[:, 1] > 0), 1]
    return gaps
