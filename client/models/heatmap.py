"""Draws attention heatmaps of the enhanced and the local model, exports them for QuPath, and lists the top patches.

Maps show percentile ranks within the slide. Attention sums to 1, so on a slide of 100,000 patches all its values are
tiny, and a map of the values themselves would have one colour.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedsteph.client.models.bag_attention import BagAttention, bag_attention
from fedsteph.client.models.members import load_members
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.slides.patch_grid import GUESSED, Grid, read_grid
from fedsteph.client.slides.patch_strip import draw_strip, on_image
from fedsteph.client.slides.slide_image import SlideImage, image_of, open_slide
from fedsteph.client.slides.thumbnail import LONGER_SIDE, read_thumbnail
from fedsteph.common.host import atomic
from fedsteph.common.report.csv_text import csv_text
from fedsteph.common.report.page import Picture
from fedsteph.common.report.style import GRADED, canvas, encoded

PICTURE, STRIP, GEOJSON, TOP = "attention.png", "patches.png", "attention.geojson", "top.csv"
_PIXELS = 900  # length of a map's longer side
_SAME_SLIDE = uuid.UUID("5f3f1c0e-8f0b-4e0a-9a53-6f2f4d5b7c11")  # namespace of the tiles' IDs


@dataclass(frozen=True)
class Caption:
    """What a page calls a picture of a slide, instead of the name of the slide alone."""

    name: str  # of the picture's file
    title: str
    whose: str  # the fold and the seed of the models
    note: str = ""


@dataclass(frozen=True)
class Heatmap:
    """Attention over the patches of one slide."""

    slide: str  # its name
    grid: Grid
    attention: Mapping[str, np.ndarray]  # model -> (n_instances,); sums to 1 over the bag, which includes this slide
    rank: Mapping[str, np.ndarray]  # model -> (n_instances,): percent of the patches with at most this attention
    unlike: float | None = None  # how unlike the training slides it is (SlideFeatures.unlike); None: not in the file
    # (n_instances,) places of the patches in the slide's file, where the models look at a draw of them; None: at all
    drawn: np.ndarray | None = None

    def instance(self, i: int) -> int:
        """The place of a patch in the slide's file."""
        return i if self.drawn is None else int(self.drawn[i])

    def top(self, n: int) -> pd.DataFrame:
        """The ``n`` patches with the highest attention per model, highest first; ties in file order."""
        rows = []
        for model, values in self.attention.items():
            order = np.argsort(-values, kind="stable")[:n]
            for place, i in enumerate(order.tolist(), 1):
                x, y = self.grid.xy[i]
                row = {"model": model, "place": place, "instance": self.instance(i), "x": int(x), "y": int(y)}
                rows.append(row | {"side": self.grid.patch, "attention": values[i], "percentile": self.rank[model][i]})
        return pd.DataFrame(rows)


def heatmap(
    model: LoadedModel | Path,
    slide: Path,
    others: Sequence[Path] = (),
    *,
    patch: float | None = None,
    size: tuple[float, float] | None = None,
    mpp: float | None = None,
    site_patch: float | None = None,
) -> Heatmap:
    """Compute the attention of both models over a slide.

    Args:
        model: file of an enhanced model, which includes the local one, of a local model alone, or of a final model; or
            a folder of models. Of several models, the attention is the mean.
        others: the same patient's other slides: they belong to the bag, and so influence the merge.
        patch: side of a patch in pixels at level 0, instead of the file's value.
        size: width and height of the slide, likewise.
        mpp: micrometres per pixel at level 0, likewise, for coords in micrometres.
        site_patch: side of a patch for a file that does not state it, before it is guessed.

    Raises:
        ModelFileError, FeatureFileError, EncoderError: a file cannot be used, or they do not fit together.
        ConfigError: the models are of a kind that gives instances no scores.
        DataError: a slide is named twice.
    """
    members = load_members(model)
    found = bag_attention(members, (slide, *others))
    unlike = None if members.slides is None else members.slides.unlike(found.slides[0])
    return _on_slide(found, 0, read_grid(slide, patch, size, mpp=mpp, site_patch=site_patch), unlike)


def most_seen(model: LoadedModel, slides: Sequence[Path], site_patch: float | None = None) -> Heatmap:
    """The heatmap of the slide of a patient that has the most attention; arguments and errors as :func:`heatmap`."""
    found = bag_attention(load_members(model), slides)
    return _on_slide(found, found.most, read_grid(slides[found.most], site_patch=site_patch))


def _on_slide(found: BagAttention, i: int, grid: Grid, unlike: float | None = None) -> Heatmap:
    from scipy.stats import rankdata  # noqa: PLC0415 (a second to import)

    drawn, attention = found.of_slide(i)
    rank = {model: 100.0 * rankdata(values, method="max") / len(drawn) for model, values in attention.items()}
    whole = len(drawn) == len(grid.xy)
    placed = grid if whole else replace(grid, xy=grid.xy[drawn])
    return Heatmap(found.paths[i].stem, placed, attention, rank, unlike, None if whole else drawn)


def write_heatmap(
    found: Heatmap, out: Path, thumbnail: Path | None = None, top: int = 20, slides: Path | None = None
) -> list[Path]:
    """Write the map, the GeoJSON for QuPath and the top patches, from a slide image a strip of them; return the paths.

    Args:
        slides: the slide's image (SVS, NDPI, TIFF), or a folder with it under the slide's name. It is laid below the
            map too if there is no thumbnail.

    Raises:
        ConfigError: slides cannot be read without the extra 'slides'.
        DataError: a picture cannot be read, has another shape than the slide, or the slide's size is unknown.
    """
    pictures = {}
    with ExitStack() as held:
        image = None if slides is None else held.enter_context(open_slide(image_of(slides, found.slide)))
        if image is not None:
            found = replace(found, grid=on_image(found.grid, image))
            pictures[STRIP] = strip(found, image)
        pictures[PICTURE] = draw(found, thumbnail, image)
    for name, picture in pictures.items():
        assert not isinstance(picture.figure, bytes | None)
        atomic.write_bytes(out / name, encoded(picture.figure, "png"))
    atomic.write_text(out / GEOJSON, geojson(found))
    listed = found.top(top)
    atomic.write_text(out / TOP, csv_text([[*listed], *listed.itertuples(index=False)], 9))
    return [*(out / name for name in reversed(pictures)), out / GEOJSON, out / TOP]


def strip(found: Heatmap, image: SlideImage, caption: Caption | None = None) -> Picture:
    """Draw the patches with the most attention; errors as :func:`.draw_strip`."""
    caption = caption or Caption("patches", f"Patches with the most attention on the slide {found.slide}", "")
    who = f"Of n = {len(found.grid.xy)} patches of {found.grid.patch:g} pixels at level 0{caption.whose}"
    return draw_strip(caption.name, caption.title, who, image, found.grid, found.rank, caption.note)


def geojson(found: Heatmap) -> str:
    """One tile per patch, with every model's attention and rank as measurements, for QuPath's measurement maps."""
    side = found.grid.patch

    def tile(i: int, x: float, y: float) -> dict[str, Any]:
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        measured = {
            f"{model} {what}": float(f"{values[model][i]:.9g}")
            for model in found.attention
            for what, values in (("attention percentile", found.rank), ("attention", found.attention))
        }
        return {
            "type": "Feature",
            "id": str(uuid.uuid5(_SAME_SLIDE, f"{found.slide}/{found.instance(i)}")),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "tile", "isLocked": True, "measurements": measured},
        }

    features = [tile(i, x, y) for i, (x, y) in enumerate(found.grid.xy.tolist())]
    return json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"), allow_nan=False)


def draw(
    found: Heatmap,
    thumbnail: Path | None = None,
    image: SlideImage | None = None,
    caption: Caption | None = None,
    panel_width: float = 3.2,
) -> Picture:
    """Draw the maps of all models side by side, over the thumbnail or else the slide's image if there is one.

    Args:
        panel_width: of each map, in inches.

    Raises:
        DataError: as :func:`write_heatmap`.
    """
    below = None if image is None else image.thumbnail(LONGER_SIDE)
    if thumbnail is not None:
        below = read_thumbnail(thumbnail, found.grid)
    width, height = found.grid.slide
    panels = ([] if below is None else ["the slide"]) + list(found.rank)
    tall = min(8.0, max(1.1, (panel_width - 0.2) * height / width))
    caption = caption or Caption("attention", f"Attention over the slide {found.slide}", "")
    who = f"n = {len(found.grid.xy)} patches of {found.grid.patch:g} pixels at level 0; ranks within this slide"
    who += caption.whose
    if found.drawn is not None:
        who += "; the model looks at a draw of the slide's patches"
    if found.grid.guessed:
        who += f". Warning: {GUESSED}"
    place: dict[str, Any] = {"extent": (0, width, height, 0), "aspect": "equal"}
    look: dict[str, Any] = {"cmap": GRADED, "vmin": 0, "vmax": 100, "interpolation": "nearest"}
    with canvas(caption.title, who, panel_width * len(panels) + 0.9, tall + 0.6) as figure:
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True))
        shown: Any = None
        for panel, model in zip(axes, panels, strict=True):
            if below is not None:
                panel.imshow(below, alpha=1 if model == "the slide" else 0.5, **place)
            if model in found.rank:
                raster = _raster(found, found.rank[model])
                shown = panel.imshow(raster, alpha=1.0 if below is None else 0.75, **place, **look)
            panel.set_title(model if model == "the slide" else f"{model} model")
            panel.set(xlabel="x, pixels of level 0", xlim=(0, width), ylim=(height, 0))
            panel.locator_params(axis="x", nbins=4)
        axes[0].set_ylabel("y, pixels of level 0")
        figure.colorbar(shown, ax=list(axes), label="attention, percentile rank", shrink=0.9)
    return Picture(caption.name, caption.title, figure, note=caption.note)


def _raster(found: Heatmap, values: np.ndarray) -> np.ndarray:
    """Values on a coarse image of the slide: the mean where patches overlap, NaN where there is no patch."""
    width, height = found.grid.slide
    scale = min(1.0, _PIXELS / max(width, height))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    total, count = np.zeros(shape), np.zeros(shape)
    low = np.floor(found.grid.xy * scale).astype(int)
    high = np.maximum(low + 1, np.round((found.grid.xy + found.grid.patch) * scale).astype(int))
    for (left, up), (right, down), value in zip(low.tolist(), high.tolist(), values.tolist(), strict=True):
        total[up:down, left:right] += value
        count[up:down, left:right] += 1
    mean: np.ndarray = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
    return mean
