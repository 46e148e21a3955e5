"""Attention over a slide against the formulas written out, and every file that shows it against the numbers."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import SMALL
from each_case import each
from full_disk import no_file_above
from PIL import Image
from slide_images import write_pyramid

from fedsteph.client.models.heatmap import (
    GEOJSON,
    PICTURE,
    STRIP,
    TOP,
    Heatmap,
    _raster,
    draw,
    geojson,
    heatmap,
    write_heatmap,
)
from fedsteph.client.models.model_file import Local, save_base, save_steph
from fedsteph.client.slides.patch_grid import Grid
from fedsteph.client.slides.thumbnail import read_thumbnail
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.commands.site.heatmap import _size
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.errors import (
    ConfigError,
    DataError,
    EncoderError,
    FeatureFileError,
    FedstephError,
    ModelFileError,
    WidthError,
)
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model

M0 = "0" * 64
SIDE = 256
TRIDENT = {"patch_size_level0": SIDE, "level0_width": 2048, "level0_height": 1024}


def write_slide(
    path: Path, n: int = 12, seed: int = 0, *, width: int = 6, encoder: str = "uni_v2", **facts: Any
) -> Path:
    """Patches in rows of 7, with two pairs of equal ones where there are 12."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, width)).astype(np.float32)
    if n == 12:
        values[[3, 11]] = values[[1, 5]]
    xy = np.array([[SIDE * (i % 7), SIDE * (i // 7)] for i in range(n)])
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values).attrs["encoder"] = encoder
        coords = file.create_dataset("coords", data=xy)
        coords.attrs.update(facts or TRIDENT)
    return path


def values_of(*paths: Path) -> np.ndarray:
    found = []
    for path in paths:
        with h5py.File(path) as file:
            found.append(file["features"][:].astype(np.float64))
    return np.concatenate(found)


def softmaxed(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def gated_attention(theta: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """``softmax_i(c^T (tanh(V h_i) * sigmoid(U h_i)))`` with ``h = ReLU(W x + b)``, in float64."""
    h = np.maximum(0, x @ theta["embed.weight"].T + theta["embed.bias"])
    tanh = np.tanh(h @ theta["attention_V.weight"].T + theta["attention_V.bias"])
    sigmoid = 1 / (1 + np.exp(-(h @ theta["attention_U.weight"].T + theta["attention_U.bias"])))
    return softmaxed(((tanh * sigmoid) @ theta["attention_c.weight"].T + theta["attention_c.bias"])[:, 0])


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in state.items()}


def merged_encoder(model: Steph, x: np.ndarray) -> tuple[dict[str, np.ndarray], list[int]]:
    """M0 + (sum_k w_k lam_k) tau_t + sum_k w_k (1 - lam_k) tau_k over the K sources with the largest w, for one bag."""
    own = arrays(model.hypernetwork.state_dict())

    def head(name: str, z: np.ndarray) -> np.ndarray:
        hidden = np.maximum(0, own[f"{name}.0.weight"] @ z + own[f"{name}.0.bias"])
        return own[f"{name}.3.weight"] @ hidden + own[f"{name}.3.bias"]

    z = np.maximum(0, x @ own["encoder.embed.weight"].T + own["encoder.embed.bias"]).mean(axis=0)
    w = np.log1p(np.exp(head("head_agg", z)))  # softplus
    lam = 1 / (1 + np.maximum(0, head("head_mix", z)))
    kept = sorted(range(len(w)), key=lambda k: -w[k])[: model.config.K]
    rows = model.mixture.stack.double().numpy()
    theta = model.mixture.theta_0.double().numpy().copy()
    for k in kept:
        theta += w[k] * lam[k] * rows[0]
        theta += w[k] * (1 - lam[k]) * rows[1 + k]
    tensors, at = {}, 0
    for name, shape in SMALL.encoder_shapes.items():
        size = int(np.prod(shape))
        tensors[name] = theta[at : at + size].reshape(shape)
        at += size
    assert at == len(theta)
    return tensors, kept


@dataclass(frozen=True)
class World:
    folder: Path
    local: BaseModel
    steph: Steph

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Three slides, a local model, and an enhanced one of three sources with and without the local one in it."""
    folder = tmp_path_factory.mktemp("heatmap")
    for k in range(3):
        write_slide(folder / f"S{k}.h5", [12, 5, 8][k], seed=k)
    local = untrained_model(SMALL, 3).eval()
    with torch.no_grad():
        local.attention_c.weight *= 5  # so that attention is not nearly flat
    torch.manual_seed(1)
    theta_0 = torch.cat([p.detach().flatten() for p in untrained_model(SMALL, 0).encoder_state().values()])
    mixture = Mixture(SMALL, theta_0, 0.7 * torch.randn(4, len(theta_0)))
    steph = Steph(mixture, StephConfig(K=2, output="softplus"), dropout=0.25).eval()
    torch.nn.init.normal_(steph.hypernetwork.head_agg[3].weight, std=4.0)
    torch.nn.init.normal_(steph.hypernetwork.head_mix[3].weight, std=4.0)
    sources = ["north", "south", "west"]
    facts = {"m0_sha256": M0, "extraction": Extraction("uni_v2", 20.0, 256.0)}
    save_base(folder / "local.safetensors", local, **facts)
    save_steph(folder / "steph.safetensors", steph, sources, **facts, local=Local(local))
    save_steph(folder / "alone.safetensors", steph, sources, m0_sha256=M0)
    return World(folder, local, steph)


@pytest.fixture(scope="module")
def found(world) -> Heatmap:
    return heatmap(world / "steph.safetensors", world / "S0.h5")


# ---------------------------------------------------------------- numbers


def test_both_models_attention_is_the_formulas(world, found):
    x = values_of(world / "S0.h5")
    assert list(found.attention) == ["local", "enhanced"]
    local = gated_attention(arrays(world.local.encoder_state()), x)
    enhanced = gated_attention(merged_encoder(world.steph, x)[0], x)
    np.testing.assert_allclose(found.attention["local"], local, rtol=1e-4)
    np.testing.assert_allclose(found.attention["enhanced"], enhanced, rtol=1e-4)
    assert abs(local - enhanced).max() > 0.01
    assert len(merged_encoder(world.steph, x)[1]) == 2  # of three
    for values in found.attention.values():
        assert values.dtype == np.float64 and values.sum() == pytest.approx(1, abs=1e-6)
        assert values.max() > 2 * values.min()


@each("others", [["S1.h5"], ["S1.h5", "S2.h5"]])
def test_a_patient_s_other_slides_belong_to_the_bag(world, found, others):
    paths = [world / name for name in ("S0.h5", *others)]
    x = values_of(*paths)
    together = heatmap(world / "steph.safetensors", paths[0], paths[1:])
    assert together.slide == "S0" and len(together.grid.xy) == 12
    for name, theta in (
        ("local", arrays(world.local.encoder_state())),
        ("enhanced", merged_encoder(world.steph, x)[0]),
    ):
        np.testing.assert_allclose(together.attention[name], gated_attention(theta, x)[:12], rtol=1e-4)
        assert together.attention[name].sum() < 0.95
    # The local model's encoder is the same, so that its attention is the slide's own, scaled; the merged one's is not.
    ratio = {name: together.attention[name] / found.attention[name] for name in found.attention}
    assert np.ptp(ratio["local"]) < 1e-4 * ratio["local"].mean()
    assert np.ptp(ratio["enhanced"]) > 0.01 * ratio["enhanced"].mean()


def test_a_model_alone_has_one_map(world, found):
    local = heatmap(world / "local.safetensors", world / "S0.h5")
    enhanced = heatmap(world / "alone.safetensors", world / "S0.h5")
    assert (list(local.attention), list(local.rank)) == (["local"], ["local"])
    assert (list(enhanced.attention), list(enhanced.rank)) == (["enhanced"], ["enhanced"])
    np.testing.assert_array_equal(local.attention["local"], found.attention["local"])
    np.testing.assert_array_equal(enhanced.attention["enhanced"], found.attention["enhanced"])


def test_ranks_are_the_percent_of_patches_with_no_more_attention(found):
    for model, values in found.attention.items():
        expected = [100 * sum(other <= value for other in values) / len(values) for value in values]
        np.testing.assert_allclose(found.rank[model], expected, rtol=1e-14)
        assert found.rank[model].max() == 100 and found.rank[model].min() > 0 and values[1] == values[3]
        assert values[5] == values[11] and len(set(values)) == 10 and len(set(found.rank[model])) == 10


def test_the_top_patches_are_listed_by_attention(world, found):
    for n in (1, 5, 12, 100):
        table = found.top(n)
        assert list(table.columns) == [*("model", "place", "instance", "x", "y", "side", "attention", "percentile")]
        rows = iter(table.to_dict("records"))
        for model, values in found.attention.items():
            order = sorted(range(12), key=lambda i: (-values[i], i))[:n]
            for place, i in enumerate(order, 1):
                assert next(rows) == {
                    "model": model,
                    "place": place,
                    "instance": i,
                    "x": SIDE * (i % 7),
                    "y": SIDE * (i // 7),
                    "side": SIDE,
                    "attention": values[i],
                    "percentile": found.rank[model][i],
                }
        assert list(rows) == []


def test_the_side_and_the_size_may_be_given(world):
    bare = write_slide(world.folder / "bare.h5", patch_size_level0=SIDE)
    assert heatmap(world / "local.safetensors", bare).grid.known_size is False
    given = heatmap(world / "local.safetensors", bare, patch=128.0, size=(4000.0, 3000.0)).grid
    assert (given.patch, given.slide, given.known_size) == (128.0, (4000.0, 3000.0), True)


def test_what_does_not_fit_together_is_refused(world, tmp_path):
    wide = write_slide(tmp_path / "wide.h5", width=7)
    other = write_slide(tmp_path / "other.h5", encoder="virchow2")
    far = write_slide(tmp_path / "far.h5", **TRIDENT, target_magnification=10)
    torch.save(torch.ones(4, 6), tmp_path / "flat.pt")
    model, slide = world / "steph.safetensors", world / "S0.h5"
    refusals: list[tuple[Sequence[Any], type[FedstephError], Path]] = [
        ((tmp_path / "none.safetensors", slide), ModelFileError, tmp_path / "none.safetensors"),
        ((slide, slide), ModelFileError, slide),
        ((model, model), FeatureFileError, model),
        ((model, tmp_path / "none.h5"), FeatureFileError, tmp_path / "none.h5"),
        ((model, wide), WidthError, wide),
        ((model, slide, [wide]), WidthError, wide),
        ((model, other), EncoderError, other),
        ((model, slide, [other]), EncoderError, other),
        ((model, far), EncoderError, far),
        ((model, tmp_path / "flat.pt"), FeatureFileError, tmp_path / "flat.pt"),
    ]
    for arguments, error, where in refusals:
        with pytest.raises(error) as caught:
            heatmap(*arguments)
        assert caught.value.where == str(where) and caught.value.remedy


# ---------------------------------------------------------------- raster


def made(xy: Any, patch: float, slide: tuple[float, float], *, known_size: bool = True) -> Heatmap:
    xy = np.asarray(xy, dtype=np.float64)
    values = np.linspace(0.1, 0.9, len(xy))
    return Heatmap("S", Grid(xy, patch, slide, known_size), {"local": values}, {"local": 100 * values})


def test_a_pixel_is_the_mean_of_the_patches_on_it_by_plain_loops():
    rng = np.random.default_rng(0)
    xy, values = rng.integers(0, 40, size=(30, 2)), rng.normal(size=30)
    raster = _raster(made(xy, 7, (50, 45)), values)
    assert raster.shape == (45, 50)
    n_overlaps = 0
    for row in range(45):
        for column in range(50):
            on = [
                value
                for (x, y), value in zip(xy, values, strict=True)
                if x <= column < x + 7 and y <= row < y + 7
            ]  # fmt: skip
            n_overlaps += len(on) > 1
            if on:
                assert raster[row, column] == pytest.approx(np.mean(on), abs=1e-12)
            else:
                assert np.isnan(raster[row, column])
    assert n_overlaps > 50 and np.isnan(raster).any()


@each("slide", [(100_000, 100_000), (250_000, 1_000), (1_000, 250_000), (1e7, 3e6), (901, 899)])
def test_a_huge_slide_has_a_small_raster(slide):
    side = min(slide) / 4
    xy = [[0, 0], [slide[0] - side, slide[1] - side]]
    raster = _raster(made(xy, side, slide), np.array([1.0, 2.0]))
    assert max(raster.shape) == 900 and raster.shape[1] / raster.shape[0] == pytest.approx(slide[0] / slide[1], rel=0.3)
    assert raster[0, 0] == 1 and raster[-1, -1] == 2


def test_patches_side_by_side_leave_no_gap_on_a_huge_slide():
    """Where a raster's pixel is 113.8 of level 0's and a patch 224."""
    xy = [[224 * i, 224 * j] for i in range(457) for j in range(3)]
    raster = _raster(made(xy, 224, (224 * 457, 224 * 3)), np.ones(len(xy)))
    assert raster.shape == (6, 900) and (raster == 1).all()


def test_a_patch_smaller_than_a_pixel_is_still_seen():
    raster = _raster(made([[50_100, 40_100]], 8, (100_000, 80_000)), np.array([3.0]))
    assert np.argwhere(~np.isnan(raster)).tolist() == [[360, 450]]


def test_a_patch_over_the_edge_is_cut_off():
    raster = _raster(made([[8, 8]], 6, (10, 10)), np.array([3.0]))
    assert raster.shape == (10, 10) and np.argwhere(~np.isnan(raster)).tolist() == [[8, 8], [8, 9], [9, 8], [9, 9]]


# ---------------------------------------------------------------- GeoJSON


def test_every_patch_is_a_closed_tile_with_its_numbers(found):
    content = json.loads(geojson(found))
    assert content["type"] == "FeatureCollection" and len(content["features"]) == 12
    for i, feature in enumerate(content["features"]):
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == 5 and ring[0] == ring[-1]
        x, y = SIDE * (i % 7), SIDE * (i // 7)
        assert sorted(ring[:4]) == sorted([[x, y], [x + SIDE, y], [x, y + SIDE], [x + SIDE, y + SIDE]])
        # RFC 7946: the outer ring runs counterclockwise, by the shoelace formula.
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2
        assert area == SIDE**2 and feature["properties"]["objectType"] == "tile"
        measured = feature["properties"]["measurements"]
        assert list(measured) == [
            "local attention percentile",
            "local attention",
            "enhanced attention percentile",
            "enhanced attention",
        ]
        for model in ("local", "enhanced"):
            assert measured[f"{model} attention"] == pytest.approx(found.attention[model][i], rel=1e-8)
            assert measured[f"{model} attention percentile"] == pytest.approx(found.rank[model][i], rel=1e-8)


def test_tiles_have_ids_of_their_own_that_stay(world, found):
    def ids(of: Heatmap) -> list[str]:
        return [feature["id"] for feature in json.loads(geojson(of))["features"]]

    assert len(set(ids(found))) == 12 and ids(heatmap(world / "local.safetensors", world / "S0.h5")) == ids(found)
    assert not set(ids(heatmap(world / "local.safetensors", world / "S2.h5"))) & set(ids(found))


def test_small_attention_keeps_its_digits():
    """On a slide of 100,000 patches the mean is 1e-5, and most are far below it."""
    values = np.array([1 - 3.21e-7, 3.2e-7, 1e-9])
    grid = Grid(np.array([[0.0, 0.0], [8.0, 0.0], [16.0, 0.0]]), 8.0, (24.0, 8.0), True)
    small = Heatmap("S", grid, {"local": values}, {"local": np.array([100.0, 200 / 3, 100 / 3])})
    measured = [feature["properties"]["measurements"] for feature in json.loads(geojson(small))["features"]]
    np.testing.assert_allclose([one["local attention"] for one in measured], values, rtol=1e-3)


# ---------------------------------------------------------------- the picture


def test_every_model_has_a_panel_with_its_ranks(found):
    picture = draw(found)
    assert picture.figure is not None
    panels = [axes for axes in picture.figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["local model", "enhanced model"]
    for axes, model in zip(panels, found.rank, strict=True):
        (image,) = axes.images
        np.testing.assert_array_equal(
            np.ma.filled(image.get_array().astype(float), np.nan), _raster(found, found.rank[model])
        )
        assert image.get_clim() == (0, 100) and image.get_extent() == [0, 2048, 1024, 0]
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 2048), (1024, 0)) and axes.get_xlabel()
    assert panels[0].get_ylabel()
    title = picture.figure.get_suptitle().replace("\n", " ")
    assert title.startswith("Attention over the slide S0 n = 12 patches of 256 pixels at level 0")


def test_the_files_are_written_and_hold_the_numbers(found, tmp_path):
    paths = write_heatmap(found, tmp_path / "new" / "out", top=3)
    assert paths == [tmp_path / "new" / "out" / name for name in (PICTURE, GEOJSON, TOP)]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted([PICTURE, GEOJSON, TOP])
    with Image.open(paths[0]) as image:
        image.load()
        assert image.format == "PNG" and image.width == pytest.approx(160 * (3.2 * 2 + 0.9), abs=2)
        assert 300 < image.height < 1000 and len(image.convert("RGB").getcolors(2**24)) > 20
    assert paths[1].read_text() == geojson(found)
    pd.testing.assert_frame_equal(pd.read_csv(paths[2]), found.top(3), check_dtype=False, rtol=1e-8)
    before = [path.read_bytes() for path in paths[1:]]
    write_heatmap(found, paths[0].parent, top=3)
    assert [path.read_bytes() for path in paths[1:]] == before


@each("slide", [(100_000.0, 2_000.0), (2_000.0, 100_000.0)])
def test_long_slides_have_a_picture_of_bounded_size(slide):
    picture = draw(made([[0, 0], [1000, 1000]], 1000, slide))
    assert picture.figure is not None
    width, height = picture.figure.get_size_inches()
    assert 3 < width < 10 and 1.5 < height < 10


# ---------------------------------------------------------------- thumbnails


def write_thumbnail(path: Path, size: tuple[int, int] = (64, 32), mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_a_thumbnail_lies_below_every_map_and_beside_them(found, tmp_path):
    path = write_thumbnail(tmp_path / "t.png")
    picture = draw(found, path)
    assert picture.figure is not None
    panels = [axes for axes in picture.figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == ["the slide", "local model", "enhanced model"]
    assert [len(axes.images) for axes in panels] == [1, 2, 2]
    with Image.open(path) as image:
        pixels = np.asarray(image)
    for axes in panels:
        np.testing.assert_array_equal(axes.images[0].get_array(), pixels)
        assert axes.images[0].get_extent() == [0, 2048, 1024, 0]


@pytest.mark.parametrize(("name", "mode"), [("t.png", "RGB"), ("t.jpg", "RGB"), ("t.png", "P"), ("t.png", "L")])
def test_a_thumbnail_may_be_of_any_kind(found, tmp_path, name, mode):
    path = write_thumbnail(tmp_path / name, mode=mode)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_thumbnail(path, found.grid), np.asarray(image.convert("RGB")))


def test_a_large_thumbnail_is_made_smaller(found, tmp_path):
    Image.new("RGB", (4000, 2000)).save(tmp_path / "t.png")
    assert read_thumbnail(tmp_path / "t.png", found.grid).shape == (900, 1800, 3)


@pytest.mark.parametrize(("size", "fits"), [((64, 32), True), ((64, 33), True), ((64, 36), False), ((32, 64), False)])
def test_a_thumbnail_has_the_slide_s_shape(found, tmp_path, size, fits):
    path = write_thumbnail(tmp_path / "t.png", size)
    if fits:
        assert read_thumbnail(path, found.grid).shape == (size[1], size[0], 3)
    else:
        with pytest.raises(DataError, match="has not the shape of the slide") as caught:
            read_thumbnail(path, found.grid)
        assert caught.value.where == str(path) and "uncropped" in caught.value.remedy


def test_a_thumbnail_below_a_slide_of_unknown_size_is_refused(tmp_path):
    path = write_thumbnail(tmp_path / "t.png")
    with pytest.raises(DataError, match="does not say how large the slide is") as caught:
        draw(made([[0, 0]], 8, (64, 32), known_size=False), path)
    assert "--slide-size" in caught.value.remedy


def png(change: Callable[[bytearray], object] = lambda content: None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    change(content)
    return bytes(content)


NO_PICTURES = {
    "empty": b"",
    "junk": b"junk",
    "cut off": png()[:2000],
    "header of another length": png(lambda content: content.__setitem__(11, 5)),
    "pixels of another length": png(lambda content: content.__setitem__(36, 24)),
    "header of no numbers": b"P6 64 3x2 255\n" + bytes(64 * 32 * 3),
}


@pytest.mark.parametrize("name", [*NO_PICTURES, "absent", "folder"])
def test_what_is_no_picture_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif name != "absent":
        path.write_bytes(NO_PICTURES[name])
    with pytest.raises(DataError, match="is not a picture that can be read") as caught:
        draw(made([[0, 0]], 8, (64, 32)), path)
    assert caught.value.where == str(path) and caught.value.remedy


# ---------------------------------------------------------------- the command


def test_the_command_writes_its_files_and_lists_the_first(cli, world, tmp_path):
    """With all that can be given: a thumbnail, the size and the side of a slide that does not say them."""
    bare, out = write_slide(tmp_path / "bare.h5", name="bare"), tmp_path / "out"
    words = ["--thumbnail", write_thumbnail(tmp_path / "t.png"), "--slide-size", "2048X1024", "--patch-size", 200]
    code, printed, said = cli("heatmap", world / "steph.safetensors", bare, "--out", out, *words)
    assert (code, said) == (0, "") and sorted(path.name for path in out.iterdir()) == sorted([PICTURE, GEOJSON, TOP])
    assert printed.splitlines()[-3:] == [str(out / name) for name in (PICTURE, GEOJSON, TOP)]
    assert "patches with the most attention" in printed
    table = pd.read_csv(out / TOP)
    assert len(table) == 2 * 12 and (table["side"] == 200).all()


def test_a_slide_s_image_gives_the_map_s_ground_and_a_strip(cli, refused, world, tmp_path):
    """Also where the feature file does not say how large the slide is."""
    pytest.importorskip("tiffslide")
    model, bare, out = (
        world / "steph.safetensors",
        write_slide(tmp_path / "S7.h5", patch_size_level0=SIDE),
        tmp_path / "out",
    )
    slides = tmp_path / "slides"
    slides.mkdir()
    write_pyramid(slides / "S7.svs")
    sizes = []
    for given in (slides, slides / "S7.svs"):
        code, printed, _ = cli("heatmap", model, bare, "--slides", given, "--out", out, "--json")
        assert code == 0
        assert json.loads(printed)["files"] == [str(out / name) for name in (PICTURE, STRIP, GEOJSON, TOP)]
        for name in (PICTURE, STRIP):
            with Image.open(out / name) as image:
                sizes.append(image.size)
    assert sizes[:2] == sizes[2:] and sizes[0][0] == pytest.approx(160 * (3.2 * 3 + 0.9), abs=2)
    no_slide = tmp_path / "no.svs"
    no_slide.write_bytes(b"junk")
    other = write_pyramid(tmp_path / "other.svs", (2048, 2048))
    for slide, given, said in (
        (bare, no_slide, "is not a slide image that can be read"),
        (bare, tmp_path, "holds no image of the slide S7"),
        (bare, tmp_path / "absent", "cannot be read"),
        (world / "S0.h5", other, "it is not this slide"),
    ):
        assert said in refused("heatmap", model, slide, "--slides", given, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    kept = (slides / "S7.svs").rename(tmp_path / STRIP)
    refused("heatmap", model, bare, "--slides", kept, "--out", tmp_path)


def test_the_command_s_json_is_the_numbers(cli, world, tmp_path):
    words = ["--out", tmp_path / "out", "--with", world / "S1.h5", "--with", world / "S2.h5", "--top", 4, "--json"]
    code, printed, _ = cli("heatmap", world / "steph.safetensors", world / "S0.h5", *words)
    assert code == 0
    content = json.loads(printed)
    found = heatmap(world / "steph.safetensors", world / "S0.h5", [world / "S1.h5", world / "S2.h5"])
    assert content["slide"] == "S0"
    assert content["files"] == [str(tmp_path / "out" / name) for name in (PICTURE, GEOJSON, TOP)]
    assert content["top"] == found.top(4).to_dict("records")


def test_a_guessed_side_is_told_everywhere(cli, refused, world, tmp_path):
    """A file whose tiles may overlap: the side is their distance at best. A site knows better."""
    model, bare, out = world / "local.safetensors", write_slide(tmp_path / "bare.h5", name="bare"), tmp_path / "out"
    code, printed, said = cli("heatmap", model, bare, "--out", out, "--json")
    [warning] = json.loads(printed)["warnings"]
    assert (code, json.loads(printed)["patch_size"]) == (0, SIDE) and "guessed" in warning and "overlap" in warning
    assert said.strip() == f"warning: {warning}"
    titles = [draw(heatmap(model, path)).figure.get_suptitle().replace("\n", " ") for path in (bare, world / "S0.h5")]
    assert [warning in title for title in titles] == [True, False]
    (tmp_path / "site.yaml").write_text("data: {patch_size: 512}")
    code, printed, said = cli("heatmap", model, bare, "--out", out, "--site", tmp_path, "--json")
    assert (code, json.loads(printed)["patch_size"], json.loads(printed)["warnings"], said) == (0, 512, [], "")
    for value in ("0", "-5", ".nan", "wide"):
        (tmp_path / "site.yaml").write_text(f"data: {{patch_size: {value}}}")
        assert "patch_size" in refused("heatmap", model, bare, "--out", out, "--site", tmp_path)


def test_micrometres_are_drawn_in_pixels(cli, refused, world, tmp_path):
    """STAMP's layout at 0.25 um per pixel, so that its tiles of 64 um have 256 pixels."""
    path = tmp_path / "stamp.h5"
    with h5py.File(path, "w") as file, h5py.File(world / "S0.h5") as same:
        file["feats"], file["coords"] = same["features"][:], same["coords"][:] / 4
        file.attrs.update({"extractor": "uni_v1", "unit": "um", "tile_size_um": 64.0})
    model, tiles = world / "alone.safetensors", []
    for name, words in ((path, ["--mpp", 0.25]), (world / "S0.h5", [])):
        assert cli("heatmap", model, name, "--out", tmp_path / "out", *words)[0] == 0
        found = json.loads((tmp_path / "out" / GEOJSON).read_text())["features"]
        tiles.append([tile["geometry"] for tile in found])
    assert tiles[0] == tiles[1]
    assert "--mpp" in refused("heatmap", model, path, "--out", tmp_path / "out")
    assert "in pixels already" in refused("heatmap", model, world / "S0.h5", "--mpp", 0.25, "--out", tmp_path / "out")
    for bad in ("nan", "inf", "0"):
        refused("heatmap", model, path, "--mpp", bad, "--out", tmp_path / "out")


def test_user_errors_are_one_line(refused, world, tmp_path):
    model, slide, out = world / "steph.safetensors", world / "S0.h5", tmp_path / "out"
    wide = write_slide(tmp_path / "wide.h5", width=7)
    other = write_slide(tmp_path / "other.h5", encoder="virchow2")
    bare = write_slide(tmp_path / "bare.h5", patch_size_level0=SIDE)
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"junk")
    picture = write_thumbnail(tmp_path / "t.png")
    taken = tmp_path / "taken"
    taken.write_text("mine")
    torch.save(torch.ones(4, 6), tmp_path / "flat.pt")

    def error(*words: object, to: Path = out) -> str:
        return refused("heatmap", *words, "--out", to)

    assert error(tmp_path / "none", slide).startswith(f"{tmp_path / 'none'}: there is no such file")
    assert "cannot be read as safetensors" in error(slide, slide)
    assert "cannot be opened" in error(model, tmp_path / "none.h5")
    assert "is neither HDF5 nor a .pt" in error(model, junk)
    assert "says nothing of where its patches lie" in error(model, tmp_path / "flat.pt")
    assert "has 7 features per instance, expected 6" in error(model, wide)
    assert "has 7 features per instance, expected 6" in error(model, slide, "--with", wide)
    assert "the features are of virchow2, the model's of uni_v2" in error(model, other)
    assert error(model, slide, "--slide-size=-5x5").startswith("--slide-size: '-5x5' is no size. Write e.g.")
    assert "outside of the slide, which is 5 x 5 pixels" in error(model, slide, "--slide-size", "5x5")
    assert "is not a picture that can be read" in error(model, slide, "--thumbnail", junk)
    assert "does not say how large the slide is" in error(model, bare, "--thumbnail", picture)
    assert "has not the shape" in error(model, bare, "--thumbnail", picture, "--slide-size", "2048x2048")
    assert "is a file" in error(model, slide, to=taken) and "0 is not in the range" in error(model, slide, "--top", 0)
    assert "is not in the range" in error(model, slide, "--patch-size", 0.5) and not out.exists()
    assert taken.read_text() == "mine"


@each("text", ["", "0x5", "5x0", "5", "5x", "-5x5", "5x5x5", "1e3x5", "5,5", "99999999x5", "5x5\n"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="is no size"):
        _size(text)


def test_a_size_is_width_and_height():
    assert (_size("98304x65536"), _size("7X9999999"), _size(None)) == ((98304.0, 65536.0), (7.0, 9999999.0), None)


@pytest.mark.parametrize("side", ["nan", "inf"])
def test_a_side_that_is_no_length_is_the_user_s_error(refused, world, tmp_path, side):
    refused("heatmap", world / "local.safetensors", world / "S0.h5", "--patch-size", side, "--out", tmp_path / "out")


def test_no_input_is_overwritten(refused, world, tmp_path):
    """Each input is where an output would go, or would be its folder."""
    slide = tmp_path / "S0.h5"
    slide.write_bytes((world / "S0.h5").read_bytes())
    for out in (slide, slide / "below"):
        refused("heatmap", world / "local.safetensors", slide, "--out", out)
    thumbnail = write_thumbnail(tmp_path / PICTURE)
    before = thumbnail.read_bytes()
    refused("heatmap", world / "local.safetensors", slide, "--thumbnail", thumbnail, "--out", tmp_path)
    assert thumbnail.read_bytes() == before


def test_one_slide_is_not_in_a_bag_twice(refused, world, tmp_path):
    """It would weigh double, in the merge and in the attention."""
    words = ["--with", world / "S0.h5", "--out", tmp_path / "out"]
    refused("heatmap", world / "local.safetensors", world / "S0.h5", *words)


# ---------------------------------------------------------------- hostile names and pictures


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "TGA", "WEBP", "EPS", "PCX", "SGI"])
def test_only_three_kinds_of_pictures_are_opened(tmp_path, kind):
    """A file is of the kind that its bytes say, whatever its name."""
    Image.new("RGB", (64, 32)).save(tmp_path / "t.png", kind)
    with pytest.raises(DataError, match="is not a picture that can be read"):
        draw(made([[0, 0]], 8, (64, 32)), tmp_path / "t.png")


def test_a_picture_of_too_many_pixels_is_refused_unread(tmp_path):
    """A PNG of some kilobytes that would take gigabytes; Pillow itself only warns of the first."""
    for size, said in (
        ((10_000, 5_100), "10000 x 5100 pixels"),
        ((60_000, 30_000), "cannot|can be read|60000 x 30000"),
    ):
        header = png()[:16] + struct.pack(">II", *size) + png()[24:29]
        path = tmp_path / "bomb.png"
        path.write_bytes(header + struct.pack(">I", zlib.crc32(header[12:])) + png()[33:])
        with pytest.raises(DataError, match=said) as caught:
            draw(made([[0, 0]], 8, size), path)
        assert caught.value.where == str(path)


def test_a_slide_s_name_of_control_characters_makes_no_malformed_file(found, tmp_path):
    odd = replace(found, slide="S\x01\x1b[2J\n<&>\"'")
    paths = write_heatmap(odd, tmp_path)
    assert len({tile["id"] for tile in json.loads(paths[1].read_text())["features"]}) == len(found.grid.xy)
    with Image.open(paths[0]) as picture:
        picture.verify()


def test_a_csv_of_hostile_ids_has_no_formula(cli, world, tmp_path):
    rows = [("patient_id", "pathology_id"), ("=HYPERLINK(1)", "S0"), ("@SUM(1)", "S1"), ("-7", "S2")]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    features = tmp_path / "features"
    features.mkdir()
    for name in ("S0", "S1", "S2"):
        (features / f"{name}.h5").write_bytes((world / "S0.h5").read_bytes())
    words = ("--features", features, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "risk.csv")
    assert cli("predict", world / "steph.safetensors", *words)[0] == 0
    with (tmp_path / "risk.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["patient_id", "-7", "'=HYPERLINK(1)", "'@SUM(1)"]


def test_a_full_disk_leaves_the_old_results_and_is_the_users_case(refused, world, tmp_path):
    """A real limit on files, first for predict, then for heatmap."""
    out, features = tmp_path / "risk.csv", tmp_path / "features"
    features.mkdir()
    (features / "S0.h5").write_bytes((world / "S0.h5").read_bytes())
    out.write_text("old")
    heat = ("heatmap", world / "steph.safetensors", world / "S0.h5", "--out", tmp_path / "heat")
    with no_file_above(100):
        said = refused("predict", world / "steph.safetensors", "--features", features, "--out", out)
        assert said.startswith(f"{out}: cannot be written (File too large; ") and "MiB are free there" in said
        assert refused(*heat).startswith(f"{tmp_path / 'heat' / 'attention.png'}: cannot be written (File too large; ")
    assert out.read_text() == "old" and [path.name for path in tmp_path.rglob("*.part")] == []
