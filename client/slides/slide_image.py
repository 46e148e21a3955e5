"""Reads small pictures out of a slide's image (SVS, NDPI, TIFF): the whole slide as a thumbnail, and single patches.

tiffslide reads them, which is Python and needs no library of the system. Only regions are read, never level 0 as a
whole: each read is from the level that fits the picture's size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fedsteph.client.data.source import told_briefly
from fedsteph.common.errors import ConfigError, DataError, FedstephError

IMAGES = (".svs", ".ndpi", ".tif", ".tiff")
PATCH = 96  # pixels, the side of a patch as it is shown
MOST_PIXELS = 50_000_000  # that are held at once, as three bytes each
_REMEDY = "Give the slide's SVS, NDPI or tiled TIFF file with all its levels"


@dataclass(frozen=True)
class SlideImage:
    """An open slide image; it can be read while its :func:`open_slide` lasts."""

    path: Path
    size: tuple[int, int]  # width and height of level 0
    _slide: Any

    def thumbnail(self, most: int) -> np.ndarray:
        """The whole slide ``(height, width, 3)`` uint8, its longer side at most ``most`` pixels.

        Raises:
            DataError: no level is small enough, or the file is damaged.
        """
        level = self._level(max(self.size) / most)
        whole = self._read((0, 0), level, self._slide.level_dimensions[level])
        scale = min(1.0, most / max(self.size))
        return _scaled(whole, [max(1, round(side * scale)) for side in self.size])

    def patch(self, x: float, y: float, side: float) -> np.ndarray:
        """A square of ``side`` pixels of level 0 with this left and upper edge: ``(PATCH, PATCH, 3)`` uint8.

        What reaches over the slide's edge is white. Raises DataError: the file is damaged, or the square too large.
        """
        level = self._level(side / PATCH)
        n = max(1, round(side / self._slide.level_downsamples[level]))
        return _scaled(self._read((int(x), int(y)), level, (n, n)), (PATCH, PATCH))

    def _level(self, downsample: float) -> int:
        return int(self._slide.get_best_level_for_downsample(downsample))

    def _read(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        if size[0] * size[1] > MOST_PIXELS:
            what = f"has no level at which {size[0]} x {size[1]} pixels would be fewer"
            raise DataError(what, where=self.path, remedy=_REMEDY)
        with _reading(self.path):
            found = self._slide.read_region(place, level, size, as_array=True, padding=False)
        if found.dtype != np.uint8 or found.shape[2] not in (1, 3, 4):
            what = f"has {found.shape[2]} channels of {found.dtype}, and so is no picture in colour or grey"
            raise DataError(what, where=self.path, remedy="Give a slide of 8 bits per channel, as of H&E")
        pixels = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        pixels[: found.shape[0], : found.shape[1]] = found[..., :3]
        return pixels


@contextmanager
def open_slide(path: Path) -> Iterator[SlideImage]:
    """Open a slide's image.

    Raises:
        ConfigError: the extra 'slides' is not installed.
        DataError: not a slide image, cut short, or stored in such large pieces that a region cannot be read alone.
    """
    tiffslide = _tiffslide()
    with ExitStack() as held:
        with _reading(path):
            file = held.enter_context(path.open("rb"))
            slide = held.enter_context(tiffslide.TiffSlide(file))
            _require_sound(slide, path)
            found = SlideImage(path, slide.dimensions, slide)
        yield found


def _tiffslide() -> ModuleType:
    try:
        import tiffslide  # noqa: PLC0415 (an extra, and half a second to import)
    except ImportError as error:
        what = f"reading slide images needs {error.name}"
        raise ConfigError(what, where="--slides", remedy="pip install 'fedsteph[slides]'") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is raised, or does not matter here
    return tiffslide


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the libraries' errors into a DataError that names the file."""
    try:
        yield
    except FedstephError:
        raise
    except OSError as error:
        what = f"cannot be read ({error.strerror or told_briefly(error)})"
        raise DataError(what, where=path, remedy="Check that it exists and that this user may read it") from error
    except Exception as error:  # a damaged picture may raise almost any exception
        what = f"is not a slide image that can be read ({told_briefly(error)})"
        raise DataError(what, where=path, remedy=_REMEDY) from error


def _require_sound(slide: Any, path: Path) -> None:
    """Refuse a file that ends before its last tile, which may be read as grey, and tiles that fill the memory."""
    tiff = slide.ts_tifffile
    for level in tiff.series[slide.properties["tiffslide.series-index"]].levels:
        for page in level.pages:
            ends = np.add(page.dataoffsets, page.databytecounts, dtype=np.int64)
            if ends.max(initial=0) > tiff.filehandle.size:
                raise DataError("is cut short", where=path, remedy="Copy it again from where it was scanned")
            if np.prod(page.chunks, dtype=np.float64) > 3 * MOST_PIXELS:
                what = "is stored in pieces too large to read a part alone"
                raise DataError(what, where=path, remedy=_REMEDY)


def _scaled(pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415

    scaled: np.ndarray = np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.BOX))
    return scaled


def image_of(slides: Path, slide: str, endings: Sequence[str] = IMAGES) -> Path:
    """The image of a slide: the path itself if it is a file, else the file of the slide's name in the folder.

    ``S1.svs`` is of the slide S1, and so is ``S1.1a2b.svs``, as TCGA adds an ID to the name.

    Raises:
        DataError: no such file or folder, no image in it, or several.
    """
    if not slides.is_dir():
        return slides
    images = [path for path in sorted(slides.iterdir()) if path.suffix.lower() in endings]
    for same in (
        [path for path in images if path.stem == slide],
        [p for p in images if p.name.startswith(f"{slide}.")],
    ):
        if len(same) > 1:
            raise DataError(f"holds {len(same)} images of the slide {slide}", where=slides, remedy="Keep one of them")
        if same:
            return same[0]
    remedy = f"Name it like the feature file: {slide}{IMAGES[0]}, .ndpi or .tif"
    raise DataError(f"holds no image of the slide {slide}", where=slides, remedy=remedy)
