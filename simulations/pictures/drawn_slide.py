"""A slide made up for a picture of attention: tissue of some hundred patches, in regions of one phenotype each."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

_ACROSS, _DOWN, _SIDE = 44, 26, 256  # the grid in patches, and a patch's side in pixels
_REGIONS = 14
_SLIDES = 20  # of the site, whose patches the regions are like
_SPREAD = 1.0  # standard deviation of a feature within a region


def write_drawn_slide(path: Path, slides: list[Path], seed: int = 0) -> None:
    """Write a feature file like a site's own ``slides`` (HDF5): each region's patches are like one patch of these.

    Encoder and magnification are those of the first slide.
    """
    rng = np.random.default_rng(seed)
    xy = _tissue()
    centres = rng.choice(xy, _REGIONS, replace=False)
    region = np.argmin(np.linalg.norm(xy[:, None] - centres[None], axis=2), axis=1)
    with h5py.File(path, "w") as out, h5py.File(slides[0]) as first:
        like = rng.choice(np.concatenate([_features(slide) for slide in slides[:_SLIDES]]), _REGIONS, replace=False)
        features = like[region] + rng.normal(0.0, _SPREAD, (len(xy), like.shape[1]))
        out["features"], out["coords"] = features.astype(np.float32), _SIDE * xy
        for name in ("features", "coords"):
            out[name].attrs.update(first[name].attrs)


def _features(slide: Path) -> np.ndarray:
    with h5py.File(slide) as file:
        return np.asarray(file["features"])


def _tissue() -> np.ndarray:
    """Places of the patches, ``(n, 2)``: a section with a wavy edge and a hole."""
    x, y = np.meshgrid(np.arange(_ACROSS), np.arange(_DOWN))
    right, down = 2 * x / (_ACROSS - 1) - 1, 2 * y / (_DOWN - 1) - 1
    angle, far = np.arctan2(down, right), np.hypot(right, down)
    inside = far < 0.82 + 0.08 * np.sin(3 * angle) + 0.05 * np.cos(7 * angle)
    hole = np.hypot(right - 0.3, down + 0.15) < 0.16
    places: np.ndarray = np.stack([x, y], axis=2)[inside & ~hole]
    return places
