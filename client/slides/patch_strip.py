"""Draws the patches of a slide that the models look at most, cut from the slide's image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedsteph.client.slides.patch_grid import Grid
from fedsteph.client.slides.slide_image import PATCH, SlideImage
from fedsteph.common.errors import DataError
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import WIDTH, canvas

SHOWN = 8
_IN_A_ROW, _GAP = 4, 4  # pixels between patches; so few in a row that a phone shows them at about their own size
_NOTE = "Numbered by attention, the most first; of patches that lie over each other, only one is shown."


def on_image(grid: Grid, image: SlideImage) -> Grid:
    """The grid with the size of the slide's image.

    Raises:
        DataError: the patches are of a slide of another size than the image.
    """
    width, height = image.size
    far = np.abs(np.subtract(grid.slide, image.size)).max() if grid.known_size else 0.0
    if far > grid.patch or (grid.xy.max(axis=0) >= image.size).any():
        size = "x".join(f"{side:g}" for side in grid.slide)
        what = f"has {width} x {height} pixels, and the coords are of a slide of {size}: it is not this slide"
        raise DataError(what, where=image.path, remedy="Give the image that the features were extracted from")
    return replace(grid, slide=(float(width), float(height)), known_size=True)


def top_patches(grid: Grid, values: np.ndarray, n: int = SHOWN) -> list[int]:
    """Places of the ``n`` patches with the largest ``values (n_instances,)`` of which none lies over another.

    The largest comes first; of equal ones, the first in the file.
    """
    free = np.ones(len(values), dtype=bool)
    found: list[int] = []
    while len(found) < n and free.any():
        found.append(int(np.argmax(np.where(free, values, -np.inf))))
        free &= (np.abs(grid.xy - grid.xy[found[-1]]) >= grid.patch).any(axis=1)
    return found


def draw_strip(
    name: str, title: str, who: str, image: SlideImage, grid: Grid, ranks: Mapping[str, np.ndarray], note: str = ""
) -> Picture:
    """Draw the patches with the highest ranks, one block per model.

    Args:
        name: of the picture's file.
        ranks: model -> ``(n_instances,)``, the percentile of each patch's attention within the slide.

    Raises:
        DataError: the image cannot be read, or is of a slide of another size.
    """
    grid = on_image(grid, image)
    chosen = {model: top_patches(grid, values) for model, values in ranks.items()}
    n_rows = -(-max(map(len, chosen.values())) // _IN_A_ROW)
    with canvas(title, who, WIDTH, len(chosen) * (0.25 + n_rows * WIDTH / _IN_A_ROW)) as figure:
        panels = np.atleast_1d(figure.subplots(len(chosen), 1))
        for panel, (model, places) in zip(panels, chosen.items(), strict=True):
            panel.imshow(
                _laid_out([image.patch(grid.xy[i, 0], grid.xy[i, 1], grid.patch) for i in places], n_rows),
                interpolation="none",
            )
            panel.set_title(f"{model} model")
            panel.axis("off")
            for i in range(len(places)):
                y, x = (PATCH + _GAP) * np.array(divmod(i, _IN_A_ROW)) + 4
                box = {"facecolor": "white", "linewidth": 0, "pad": 1.2}
                panel.text(x, y, str(i + 1), va="top", fontsize=7, bbox=box)
    rows = [
        [model, str(place), f"{grid.xy[i, 0]:g}", f"{grid.xy[i, 1]:g}", f"{ranks[model][i]:.2f}"]
        for model, places in chosen.items()
        for place, i in enumerate(places, 1)
    ]
    numbers = Table(["model", "place", "x", "y", "percentile"], rows, "where they lie", folded=True)
    return Picture(name, title, figure, note=f"{note} {_NOTE}".strip(), numbers=numbers)


def _laid_out(patches: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
    """Patches side by side in rows, on white."""
    step = PATCH + _GAP
    sheet = np.full((n_rows * step - _GAP, _IN_A_ROW * step - _GAP, 3), 255, dtype=np.uint8)
    for i, patch in enumerate(patches):
        y, x = (step * part for part in divmod(i, _IN_A_ROW))
        sheet[y : y + PATCH, x : x + PATCH] = patch
    return sheet
