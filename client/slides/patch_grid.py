"""Reads the grid of a slide's patches at level 0: their positions, their side, and the size of the slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsteph.client.data.formats import read_coords
from fedsteph.client.data.source import Coords
from fedsteph.common.errors import FeatureFileError

GUESSED = "the side of a patch was guessed from their distances; with overlap it is larger: give --patch-size"
_LARGEST = 1e8  # pixels; the largest slides have some 10^5 to a side
_SIZE = "Give the slide's true size at level 0 with --slide-size WIDTHxHEIGHT"
_PIXEL_SIZES = ("slide_mpp", "level0_mpp", "mpp_level0")  # attributes with the um per pixel at level 0
_MAJORITY = 0.6  # share of distances between neighbours that must equal the side of a patch


@dataclass(frozen=True)
class Grid:
    """A slide's patches as squares, in pixels at level 0."""

    xy: np.ndarray  # (n_instances, 2) left and upper edge
    patch: float  # side of a patch
    slide: tuple[float, float]  # width and height; the extent of the patches if the size is not stated
    known_size: bool  # whether the file or the user states the size of the slide
    guessed: bool = False  # whether the side of a patch is only the distance of neighbours


def read_grid(
    path: Path,
    patch: float | None = None,
    slide: tuple[float, float] | None = None,
    *,
    mpp: float | None = None,
    site_patch: float | None = None,
) -> Grid:
    """Read a slide's grid from its feature file.

    Args:
        patch: side of a patch in pixels at level 0, instead of the file's value.
        slide: width and height, likewise.
        mpp: micrometres per pixel at level 0, instead of the file's value, for positions in micrometres.
        site_patch: side of a patch as in ``patch``, for a file that does not state it.

    Raises:
        FeatureFileError: there are no positions, or their unit or the size of a pixel is unknown; the side of a patch
            is neither stated nor clear from their distances; or a patch lies outside the slide.
    """
    found = _in_pixels(read_coords(path), path, mpp)
    stated = patch or _stated_side(found.facts) or site_patch
    side = stated or _guessed_side(found.xy, path)
    if not (0 < side <= _LARGEST and found.xy.max() <= _LARGEST):
        what = f"has a patch of {side:g} pixels, or one at {found.xy.max():g}: no slide is so large"
        raise FeatureFileError(what, where=path, remedy="Extract the slide again")
    size = slide or _stated_size(found.facts, path)
    if found.xy.min() < 0:
        what = "has a patch outside of the slide, at negative coords"
        raise FeatureFileError(what, where=path, remedy="Extract the slide again")
    if size is not None and (found.xy.max(axis=0) >= size).any():
        what = f"has a patch outside of the slide, which is {size[0]:g} x {size[1]:g} pixels"
        raise FeatureFileError(what, where=path, remedy=_SIZE)
    width, height = (found.xy.max(axis=0) + side).tolist()
    return Grid(found.xy, side, size or (width, height), size is not None, stated is None)


def _stated_size(facts: Mapping[str, float], path: Path) -> tuple[float, float] | None:
    if not {"level0_width", "level0_height"} <= facts.keys():
        return None
    size = facts["level0_width"], facts["level0_height"]
    if not 0 < min(size) <= max(size) <= _LARGEST:
        raise FeatureFileError(f"is of a slide of {size[0]:g} x {size[1]:g} pixels", where=path, remedy=_SIZE)
    return size


def _in_pixels(found: Coords, path: Path, mpp: float | None) -> Coords:
    """Positions in pixels at level 0, with the side of a patch among the facts where STAMP's attributes state it."""
    if found.unit == "pixels":
        if mpp is not None:
            raise FeatureFileError("has coords in pixels already", where=path, remedy="Leave out --mpp")
        return found
    size = mpp or next((value for name in _PIXEL_SIZES if (value := found.facts.get(name, 0)) > 0), None)
    if size is None:
        what = "has coords in micrometres, and does not say how large a pixel is"
        remedy = "Give the slide's micrometres per pixel at level 0 with --mpp, e.g. --mpp 0.25"
        raise FeatureFileError(what, where=path, remedy=remedy)
    tile = max(found.facts.get("tile_size_um", 0), 0) or found.facts.get("tile_size", 0)
    side = {"patch_size_level0": tile / size} if tile > 0 else {}
    return Coords(found.xy / size, {**found.facts, **side})


def _stated_side(facts: Mapping[str, float]) -> float | None:
    """Side of a patch at level 0 from TRIDENT's or CLAM's attributes; None if they do not tell it."""
    if facts.get("patch_size_level0", 0) > 0:
        return facts["patch_size_level0"]
    scale = facts.get("downsample", 1.0 if facts.get("patch_level") == 0 else 0.0)
    return facts["patch_size"] * scale if facts.get("patch_size", 0) > 0 and scale > 0 else None


def _guessed_side(xy: np.ndarray, path: Path) -> float:
    """The most frequent distance between neighbours, if most have it."""
    gaps = np.concatenate([_gaps(xy), _gaps(xy[:, ::-1])])
    sides, counts = np.unique(gaps, return_counts=True)
    if not len(sides) or counts.max() < _MAJORITY * len(gaps):
        raise FeatureFileError(
            "does not say how wide a patch is",
            where=path,
            remedy="Give its side at level 0 with --patch-size, or as data.patch_size in site.yaml with --site",
        )
    return float(sides[counts.argmax()])


def _gaps(xy: np.ndarray) -> np.ndarray:
    """Distances between neighbours in a column; every tissue region has its own grid and offset."""
    ordered = xy[np.lexsort((xy[:, 1], xy[:, 0]))]
    steps = np.diff(ordered, axis=0)
    gaps: np.ndarray = steps[(steps[:, 0] == 0) & (steps[:, 1] > 0), 1]
    return gaps
