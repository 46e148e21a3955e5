"""Draws attention heatmaps of the enhanced and the local model, exports them for QuPath, and lists the top patches.

Maps show percentile ranks within the slide. Attention sums to 1, so on a slide of 100,000 patches all its values are
tiny, and a map of the values themselves would have one colour.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedsteph.client.data.formats import read_features
from fedsteph.client.data.instances import InstanceRule
from fedsteph.client.models.members import load_members
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.patch_grid import GUESSED, Grid, read_grid
from fedsteph.client.models.predict import require_extraction
from fedsteph.common.errors import DataError
from fedsteph.common.host import atomic
from fedsteph.common.report.csv_text import csv_text
from fedsteph.common.report.page import Picture
from fedsteph.common.report.style import GRADED, canvas, encoded

PICTURE, GEOJSON, TOP = "attention.png", "attention.geojson", "top.csv"
_PICTURES = ("PNG", "JPEG", "TIFF")  # Pillow's other readers are not needed, and have had more faults
_MOST_PIXELS = 50_000_000  # of a thumbnail, which is held in memory as three bytes each
_PIXELS = 900  # length of a map's longer side
_SAME_SLIDE = uuid.UUID("5f3f1c0e-8f0b-4e0a-9a53-6f2f4d5b7c11")  # namespace of the tiles' IDs


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
    model: Path,
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
    from scipy.stats import rankdata  # noqa: PLC0415 (a second to import)

    paths = (slide, *others)
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("would be in the bag twice", where=slide, remedy="Name each slide once")
    members = load_members(model)
    bags = []
    for path in paths:
        for loaded in members.models:
            require_extraction(loaded, path)
        bags.append(torch.from_numpy(read_features(path, width=members.models[0].architecture.width)))
    grid = read_grid(slide, patch, size, mpp=mpp, site_patch=site_patch)
    bag, drawn = _looked_at(bags, paths, InstanceRule.of(members.models[0].architecture))
    n = len(bags[0]) if drawn is None else len(drawn)
    if drawn is not None:
        grid = replace(grid, xy=grid.xy[drawn])
    attention = {
        name: np.mean([one.attention(bag)[:n].double().numpy() for one in models], axis=0)
        for name, models in _models(members.models).items()
    }
    rank = {name: 100.0 * rankdata(values, method="max") / n for name, values in attention.items()}
    unlike = None if members.slides is None else members.slides.unlike(bags[0])
    return Heatmap(slide.stem, grid, attention, rank, unlike, drawn)


def _looked_at(
    slides: Sequence[torch.Tensor], paths: Sequence[Path], rule: InstanceRule
) -> tuple[torch.Tensor, np.ndarray | None]:
    """The bag of the slides as the models see it, and which patches of the first one are in it; None: all."""
    bag, n = torch.cat(list(slides)), len(slides[0])
    places = rule.places(len(bag))
    drawn = places[places < n]
    return rule.rows(bag, rule.near_of(paths) if rule.neighbours else None), drawn if len(drawn) < n else None


def _models(loaded: Sequence[LoadedModel]) -> dict[str, list[Any]]:
    """The local and the enhanced models; a local one stands for itself beside enhanced ones, as in a prediction."""
    if not any(one.sources for one in loaded):
        return {"local": [one.model for one in loaded]}
    own = [one.local.model if one.local is not None else one.model for one in loaded if one.local or not one.sources]
    return ({"local": own} if len(own) == len(loaded) else {}) | {"enhanced": [one.model for one in loaded]}


def write_heatmap(found: Heatmap, out: Path, thumbnail: Path | None = None, top: int = 20) -> list[Path]:
    """Write the picture, the GeoJSON for QuPath and the top patches; return the paths.

    Raises:
        DataError: the thumbnail cannot be read, has another shape than the slide, or the slide's size is unknown.
    """
    picture = draw(found, thumbnail)
    assert not isinstance(picture.figure, bytes | None)
    atomic.write_bytes(out / PICTURE, encoded(picture.figure, "png"))
    atomic.write_text(out / GEOJSON, geojson(found))
    listed = found.top(top)
    atomic.write_text(out / TOP, csv_text([[*listed], *listed.itertuples(index=False)], 9))
    return [out / PICTURE, out / GEOJSON, out / TOP]


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


def draw(found: Heatmap, thumbnail: Path | None = None) -> Picture:
    """Draw the maps of all models side by side, over the thumbnail if there is one."""
    below = None if thumbnail is None else _thumbnail(thumbnail, found)
    width, height = found.grid.slide
    panels = ([] if below is None else ["the slide"]) + list(found.rank)
    tall = min(8.0, max(1.1, 3.0 * height / width))
    title = f"Attention over the slide {found.slide}"
    who = f"n = {len(found.grid.xy)} patches of {found.grid.patch:g} pixels at level 0; ranks within this slide"
    if found.drawn is not None:
        who += "; the model looks at a draw of the slide's patches"
    if found.grid.guessed:
        who += f". Warning: {GUESSED}"
    place: dict[str, Any] = {"extent": (0, width, height, 0), "aspect": "equal"}
    look: dict[str, Any] = {"cmap": GRADED, "vmin": 0, "vmax": 100, "interpolation": "nearest"}
    with canvas(title, who, 3.2 * len(panels) + 0.9, tall + 0.6) as figure:
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True))
        image: Any = None
        for panel, name in zip(axes, panels, strict=True):
            if below is not None:
                panel.imshow(below, alpha=1 if name == "the slide" else 0.5, **place)
            if name in found.rank:
                raster = _raster(found, found.rank[name])
                image = panel.imshow(raster, alpha=1.0 if below is None else 0.75, **place, **look)
            panel.set_title(name if name == "the slide" else f"{name} model")
            panel.set(xlabel="x, pixels of level 0", xlim=(0, width), ylim=(height, 0))
            panel.locator_params(axis="x", nbins=4)
        axes[0].set_ylabel("y, pixels of level 0")
        figure.colorbar(image, ax=list(axes), label="attention, percentile rank", shrink=0.9)
    return Picture("attention", title, figure)


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


def _thumbnail(path: Path, found: Heatmap) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415

    width, height = found.grid.slide
    if not found.grid.known_size:
        what = "cannot be laid below the map: the feature file does not say how large the slide is"
        raise DataError(what, where=path, remedy="Give the slide's size at level 0 with --slide-size WIDTHxHEIGHT")
    remedy = "Give a small PNG, JPEG or TIFF of the whole slide"
    try:
        with Image.open(path, formats=_PICTURES) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                what = f"has {opened.width} x {opened.height} pixels, more than a thumbnail's {_MOST_PIXELS:,}"
                raise DataError(what, where=path, remedy=remedy)
            image = opened.convert("RGB")
            image.thumbnail((2 * _PIXELS, 2 * _PIXELS))
            pixels: np.ndarray = np.asarray(image)
    except DataError:
        raise
    except Exception as error:  # a damaged picture may raise almost any exception
        raise DataError("is not a picture that can be read", where=path, remedy=remedy) from error
    if abs(pixels.shape[1] / pixels.shape[0] / (width / height) - 1) > 0.05:
        what = f"has not the shape of the slide ({width:g} x {height:g} pixels): it would lie askew"
        raise DataError(what, where=path, remedy="Give a thumbnail of the whole slide, uncropped and unturned")
    return pixels
