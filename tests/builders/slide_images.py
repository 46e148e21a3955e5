"""Small slide images with a pyramid, as a scanner's: each patch has a colour of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SIDE = 256
PLACES = [(SIDE * (i % 7), SIDE * (i // 7)) for i in range(12)]  # left and upper edge, as of the tests' feature files


def colour(i: int) -> np.ndarray:
    return np.array([20 * i, 250 - 20 * i, 7 * i], dtype=np.uint8)


_TILES = {"tile": (128, 128), "photometric": "rgb", "metadata": None}
_APERIO = "Aperio Image Library v12.0.3\r\n{} -> {}|AppMag = 40|MPP = 0.25"


def _pixels(size: tuple[int, int]) -> np.ndarray:
    pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    for i, (x, y) in enumerate(PLACES):
        pixels[y : y + SIDE, x : x + SIDE] = colour(i)
    return pixels


def write_pyramid(path: Path, size: tuple[int, int] = (2048, 1024), *, levels: int = 3) -> Path:
    """White, with 12 patches at :data:`PLACES`; each level has half the side of the one before."""
    tifffile, pixels = pytest.importorskip("tifffile"), _pixels(size)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, subifds=levels - 1, **_TILES)
        for level in range(1, levels):
            writer.write(pixels[:: 2**level, :: 2**level], subfiletype=1, **_TILES)
    return path


def write_svs(path: Path) -> Path:
    """The same in Aperio's order: level 0, a black thumbnail, one more level, and a black label."""
    tifffile, pixels = pytest.importorskip("tifffile"), _pixels((2048, 1024))
    black = np.zeros((64, 128, 3), np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, description=_APERIO.format("2048x1024", "2048x1024"), **_TILES)
        writer.write(black, description=_APERIO.format("2048x1024", "128x64"), photometric="rgb", metadata=None)
        writer.write(pixels[::4, ::4], description=_APERIO.format("2048x1024", "512x256"), **_TILES)
        writer.write(black, description="Aperio\r\nlabel 128x64", photometric="rgb", subfiletype=1, metadata=None)
    return path
