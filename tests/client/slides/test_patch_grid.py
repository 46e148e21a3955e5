"""Where a slide's patches lie, as every layout says it; what cannot be told is refused with a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data_builders import features, save

from fedsteph.client.slides.patch_grid import Grid, read_grid
from fedsteph.common.errors import FeatureFileError

XY = np.array([[512, 1024], [1024, 1024], [512, 1536], [2048, 2560]])
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "S1",
    "savetodir": "/data/out",
    "level0_width": 4096,
    "level0_height": 3072,
}
CLAM = {"patch_size": 128, "patch_level": 1, "downsample": np.array([4.0, 4.0]), "name": "S1", "save_path": "/data"}


def write(path: Path, xy: Any = XY, attributes: Mapping[str, Any] | None = None, n: int | None = None) -> Path:
    """An HDF5 file with ``n`` instances, by default as many as there are coords."""
    coords = None if xy is None else np.asarray(xy)
    with h5py.File(path, "w") as file:
        n = n if n is not None else len(coords.reshape(-1, 2))
        values = features(n)
        file["features"] = values[None] if coords is not None and coords.ndim == 3 else values
        if coords is not None:
            dataset = file.create_dataset("coords", data=coords)
            for name, value in (attributes or {}).items():
                dataset.attrs[name] = value
    return path


def same(found: Grid, xy: Any, patch: float, slide: tuple[float, float], known_size: bool) -> None:
    assert found.xy.dtype == np.float64
    np.testing.assert_array_equal(found.xy, xy)
    assert (found.patch, found.slide, found.known_size) == (patch, slide, known_size)


def test_trident_says_everything(tmp_path):
    same(read_grid(write(tmp_path / "a.h5", XY, TRIDENT)), XY, 512.0, (4096.0, 3072.0), True)


def test_the_file_itself_may_say_what_its_coords_do_not(tmp_path):
    """Attributes of the coords come before those of the file."""
    path = write(tmp_path / "a.h5", XY, {"level0_width": 4096})
    with h5py.File(path, "a") as file:
        file.attrs.update({"patch_size_level0": 300, "level0_width": 9, "level0_height": 3072})
    same(read_grid(path), XY, 300.0, (4096.0, 3072.0), True)


def stamp(path: Path, attributes: Mapping[str, Any], side: float = 256.0) -> Path:
    """STAMP's layout: tiles of ``side`` micrometres in a row."""
    with h5py.File(path, "w") as file:
        file["feats"] = features(3)
        file["coords"] = np.array([[0, 0], [side, 0], [2 * side, side]], dtype=np.float32)
        file.attrs.update(attributes)
    return path


def test_micrometres_become_pixels(tmp_path):
    """At 0.25 um per pixel a tile of 256 um has 1024 pixels at level 0; with overlap it is wider than its step."""
    now = {"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224}
    in_pixels = [[0, 0], [1024, 0], [2048, 1024]]
    for attributes in (now, {"tile_size_um": 256.0}, {"unit": "um", "tile_size": 256.0}, now | {"unit": "\u00b5m"}):
        same(read_grid(stamp(tmp_path / "a.h5", attributes), mpp=0.25), in_pixels, 1024.0, (3072.0, 2048.0), False)
    path = stamp(tmp_path / "a.h5", now | {"slide_mpp": 0.25, "tile_size_um": 512.0})
    same(read_grid(path), in_pixels, 2048.0, (4096.0, 3072.0), False)
    assert read_grid(path, mpp=0.5).patch == 1024.0 and read_grid(path, 99.0).patch == 99.0


def test_units_that_cannot_be_converted_are_refused(tmp_path):
    now = {"unit": "um", "tile_size_um": 256.0}
    error = refused(stamp(tmp_path / "a.h5", now))
    assert "does not say how large a pixel is" in error.what and "--mpp" in error.remedy
    assert "a unit that it does not state" in refused(stamp(tmp_path / "a.h5", {"extractor": "ctranspath"})).what
    assert "a unit that it does not state" in refused(stamp(tmp_path / "a.h5", {"unit": "px", "tile_size": 224})).what
    assert "the unit 'mm'" in refused(write(tmp_path / "b.h5", XY, TRIDENT | {"unit": "mm"})).what
    with pytest.raises(FeatureFileError, match="in pixels already") as caught:
        read_grid(write(tmp_path / "c.h5", XY, TRIDENT), mpp=0.25)
    assert "Leave out --mpp" in caught.value.remedy


def test_the_side_comes_from_the_user_the_file_the_site_and_last_from_a_guess(tmp_path):
    told, bare = write(tmp_path / "a.h5", XY, TRIDENT), write(tmp_path / "b.h5", XY)
    found = [read_grid(told, 100.0, site_patch=700.0), read_grid(told, site_patch=700.0)]
    found += [read_grid(bare, site_patch=700.0), read_grid(bare)]
    assert [(grid.patch, grid.guessed) for grid in found] == [(100, False), (512, False), (700, False), (512, True)]


def test_clam_says_a_patch_s_side_at_its_own_level(tmp_path):
    """128 pixels at a level 4 times as coarse are 512 at level 0; it does not say how large the slide is."""
    same(read_grid(write(tmp_path / "a.h5", XY, CLAM)), XY, 512.0, (2048.0 + 512, 2560.0 + 512), False)


@pytest.mark.parametrize("downsample", [4, 4.0, np.array([4.0, 4.0]), np.float32(4)])
def test_clam_s_downsample_may_be_one_number_or_two(tmp_path, downsample):
    assert read_grid(write(tmp_path / "a.h5", XY, CLAM | {"downsample": downsample})).patch == 512.0


def test_a_side_at_level_0_needs_no_downsample(tmp_path):
    assert read_grid(write(tmp_path / "a.h5", XY, {"patch_size": 300, "patch_level": 0})).patch == 300.0


def test_uni2_h_s_leading_axis_is_taken_off(tmp_path):
    same(read_grid(write(tmp_path / "a.h5", XY[None])), XY, 512.0, (2560.0, 3072.0), False)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float32, np.float64, ">i4"])
def test_coords_may_be_of_any_type_of_number(tmp_path, dtype):
    same(read_grid(write(tmp_path / "a.h5", XY.astype(dtype), TRIDENT)), XY, 512.0, (4096.0, 3072.0), True)


def regions(*offsets: tuple[int, int], side: int = 256) -> np.ndarray:
    """Pieces of tissue, each with a grid of its own, from which some patches are missing."""
    rng = np.random.default_rng(1)
    grids = [
        np.array([(x, y) for x in range(8) for y in range(6) if rng.random() < 0.8]) * side + offset
        for offset in offsets
    ]
    return np.concatenate(grids)


def test_without_words_the_side_is_what_most_neighbours_are_apart(tmp_path):
    """Grids of several regions are shifted against each other by less than a patch."""
    xy = regions((0, 0), (8037, 111), (37, 9000))
    found = read_grid(write(tmp_path / "a.h5", xy))
    assert found.patch == 256.0 and found.slide == (xy[:, 0].max() + 256.0, xy[:, 1].max() + 256.0)


def test_a_side_that_cannot_be_told_is_asked_for(tmp_path):
    rng = np.random.default_rng(2)
    path = write(tmp_path / "a.h5", np.stack([np.arange(40) % 2, rng.permutation(4000)[:40]], axis=1))
    with pytest.raises(FeatureFileError, match="--patch-size"):
        read_grid(path)


@pytest.mark.parametrize(("xy", "side"), [([[0, 0], [0, 300]], 300.0), ([[0, 0], [700, 0]], 700.0)])
def test_one_column_or_one_row_is_enough(tmp_path, xy, side):
    assert read_grid(write(tmp_path / "a.h5", xy)).patch == side


@pytest.mark.parametrize(
    "attributes",
    [
        {"patch_size": 256},  # at which level?
        {"downsample": 4},
        {"patch_size": 256, "patch_level": 1},
        {"patch_size_level0": 0},
        {"patch_size_level0": -5},
        {"patch_size_level0": np.nan},
        {"patch_size_level0": "wide"},
        {"patch_size_level0": np.array([])},
        {"patch_size": 256, "downsample": 0},
        {"patch_size_level0": h5py.Empty("f")},
    ],
)
def test_words_that_do_not_tell_are_passed_over(tmp_path, attributes):
    assert read_grid(write(tmp_path / "a.h5", XY, attributes)).patch == 512.0


@pytest.mark.parametrize("attributes", [{"level0_width": 4096}, {"level0_height": 3072}, {"level0_width": "wide"}])
def test_half_a_size_is_none(tmp_path, attributes):
    found = read_grid(write(tmp_path / "a.h5", XY, {"patch_size_level0": 512} | attributes))
    assert (found.slide, found.known_size) == ((2560.0, 3072.0), False)


def test_the_user_s_word_comes_before_the_file_s(tmp_path):
    path = write(tmp_path / "a.h5", XY, TRIDENT)
    same(read_grid(path, patch=256.0), XY, 256.0, (4096.0, 3072.0), True)
    same(read_grid(path, slide=(9000.0, 8000.0)), XY, 512.0, (9000.0, 8000.0), True)
    bare = write(tmp_path / "b.h5", XY)
    same(read_grid(bare, 100.0), XY, 100.0, (2148.0, 2660.0), False)
    same(read_grid(bare, 100.0, (3000.0, 2700.0)), XY, 100.0, (3000.0, 2700.0), True)


def test_one_patch_is_a_grid_where_its_side_is_known(tmp_path):
    one = np.array([[512, 256]])
    same(read_grid(write(tmp_path / "a.h5", one, TRIDENT)), one, 512.0, (4096.0, 3072.0), True)
    same(read_grid(write(tmp_path / "b.h5", one), 100.0), one, 100.0, (612.0, 356.0), False)


def refused(path: Path, *options: Any) -> FeatureFileError:
    with pytest.raises(FeatureFileError) as caught:
        read_grid(path, *options)
    assert caught.value.where == str(path) and caught.value.remedy
    return caught.value


@pytest.mark.parametrize("xy", [[[512, 256]], [[512, 256]] * 3])
def test_a_side_that_nobody_says_is_asked_for(tmp_path, xy):
    error = refused(write(tmp_path / "a.h5", xy))
    assert "does not say how wide a patch is" in error.what and "--patch-size" in error.remedy


def test_a_pt_file_has_no_place_for_coords(tmp_path):
    error = refused(save(tmp_path / "a.pt", {"features": torch.zeros(4, 3), "coords": torch.zeros(4, 2)}))
    assert "says nothing of where its patches lie" in error.what and "HDF5" in error.remedy


def test_an_hdf5_file_may_lack_coords(tmp_path):
    error = refused(write(tmp_path / "a.h5", None, n=4))
    assert "says nothing of where its patches lie" in error.what and "coords" in error.remedy


@pytest.mark.parametrize(
    ("xy", "n"), [(XY, 5), (XY, 3), (np.zeros((0, 2)), 4), (np.zeros((4, 3)), 4), (np.zeros(4), 4), (np.zeros(8), 4)]
)
def test_there_must_be_two_coords_for_every_instance(tmp_path, xy, n):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"] = features(n, 6)
        file["coords"] = xy
    error = refused(path)
    assert f"for {n} instances" in error.what


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coords_must_be_numbers(tmp_path, value):
    xy = XY.astype(float)
    xy[2, 1] = value
    assert "no numbers" in refused(write(tmp_path / "a.h5", xy, TRIDENT)).what


def test_coords_that_are_text_one_number_or_a_group_are_refused(tmp_path):
    with h5py.File(tmp_path / "number.h5", "w") as file:
        file["features"] = features(1)
        file["coords"] = 7
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["features"] = features(2)
        file["coords"] = np.array([["a", "b"], ["c", "d"]], dtype="S")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["features"] = features(2)
        file.create_group("coords")
    assert "has coords of shape () for 1 instances" in refused(tmp_path / "number.h5").what
    for name in ("text.h5", "group.h5"):
        assert "says nothing of where its patches lie" in refused(tmp_path / name).what


@pytest.mark.parametrize("size", [(2048.0, 3000.0), (4096.0, 2560.0), (1.0, 1.0)])
def test_a_patch_outside_of_the_slide_is_refused(tmp_path, size):
    error = refused(write(tmp_path / "a.h5", XY, TRIDENT), None, size)
    assert f"{size[0]:g} x {size[1]:g} pixels" in error.what and "--slide-size" in error.remedy
    assert "outside" in refused(
        write(tmp_path / "b.h5", XY, TRIDENT | {"level0_width": size[0], "level0_height": size[1]})
    ).what  # fmt: skip


def test_a_patch_may_reach_over_the_slide_s_edge(tmp_path):
    """As the last ones of a row do: their left upper corner decides."""
    assert read_grid(write(tmp_path / "a.h5", XY, TRIDENT), None, (2049.0, 2561.0)).slide == (2049.0, 2561.0)


@pytest.mark.parametrize("attributes", [TRIDENT, {"patch_size_level0": 512}])
def test_a_patch_left_of_the_slide_is_refused(tmp_path, attributes):
    """Wherever the slide's right edge is, its left one is at 0."""
    assert "outside" in refused(write(tmp_path / "a.h5", XY - [1024, 0], attributes)).what


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_feature_file_is_refused(tmp_path, content):
    path = tmp_path / "a.h5"
    if content is not None:
        path.write_bytes(content)
    refused(path)


def test_a_place_where_no_patch_can_be_is_refused(tmp_path):
    """NaN, infinity, numbers beyond any slide, before its edge: none is ever drawn or exported."""
    for bad in (np.nan, np.inf, -np.inf, 1e300, 2e8, -1.0, -1e300):
        path = write(tmp_path / "bad.h5", np.array([[0.0, 0.0], [256.0, bad]]), {"patch_size_level0": 256})
        assert refused(path).where == str(path)
    for side in (1e300, 2e8):
        refused(write(tmp_path / "bad.h5", XY, {"patch_size_level0": side}))
    for width in (1e300, 0, -5):
        refused(write(tmp_path / "bad.h5", XY, TRIDENT | {"level0_width": width}))


def test_patches_on_one_place_are_all_kept(tmp_path):
    twice = np.concatenate([XY, XY])
    same(read_grid(write(tmp_path / "a.h5", twice, TRIDENT)), twice, 512.0, (4096.0, 3072.0), True)
