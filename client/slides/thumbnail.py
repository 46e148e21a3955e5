"""Reads a small picture of a whole slide (PNG, JPEG, TIFF), to lay below a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsteph.client.slides.patch_grid import Grid
from fedsteph.client.slides.slide_image import MOST_PIXELS
from fedsteph.common.errors import DataError

THUMBNAILS = (".png", ".jpg", ".jpeg")
LONGER_SIDE = 1800  # pixels, at most
_PICTURES = ("PNG", "JPEG", "TIFF")  # Pillow's other readers are not needed, and have had more faults


def read_thumbnail(path: Path, grid: Grid) -> np.ndarray:
    """The picture ``(height, width, 3)`` uint8 of the slide with these patches.

    Raises:
        DataError: it cannot be read, is too large, has another shape than the slide, or the slide's size is unknown.
    """
    from PIL import Image  # noqa: PLC0415

    width, height = grid.slide
    if not grid.known_size:
        what = "cannot be laid below the map: the feature file does not say how large the slide is"
        raise DataError(what, where=path, remedy="Give the slide's size at level 0 with --slide-size WIDTHxHEIGHT")
    remedy = "Give a small PNG, JPEG or TIFF of the whole slide"
    try:
        with Image.open(path, formats=_PICTURES) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                what = f"has {opened.width} x {opened.height} pixels, more than a thumbnail's {MOST_PIXELS:,}"
                raise DataError(what, where=path, remedy=remedy)
            image = opened.convert("RGB")
            image.thumbnail((LONGER_SIDE, LONGER_SIDE))
            pixels: np.ndarray = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # a damaged picture may raise almost any exception
        raise DataError("is not a picture that can be read", where=path, remedy=remedy) from error
    if abs(pixels.shape[1] / pixels.shape[0] / (width / height) - 1) > 0.05:
        what = f"has not the shape of the slide ({width:g} x {height:g} pixels): it would lie askew"
        raise DataError(what, where=path, remedy="Give a thumbnail of the whole slide, uncropped and unturned")
    return pixels
