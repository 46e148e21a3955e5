"""Which patches a strip shows, and that each stands where its place says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from slide_images import PLACES, SIDE, colour, write_pyramid

from fedsteph.client.slides.patch_grid import Grid
from fedsteph.client.slides.patch_strip import draw_strip, on_image, top_patches
from fedsteph.client.slides.slide_image import PATCH, open_slide
from fedsteph.common.errors import DataError

pytest.importorskip("tiffslide")
GRID = Grid(np.array(PLACES, dtype=np.float64), float(SIDE), (2048.0, 1024.0), True)


def test_patches_over_each_other_are_shown_once_by_plain_loops():
    rng = np.random.default_rng(0)
    xy, values = rng.integers(0, 100, size=(200, 2)).astype(float), rng.integers(0, 50, size=200).astype(float)
    expected: list[int] = []
    for i in sorted(range(200), key=lambda i: (-values[i], i)):
        apart = [abs(xy[i, 0] - xy[j, 0]) >= 20 or abs(xy[i, 1] - xy[j, 1]) >= 20 for j in expected]
        if all(apart) and len(expected) < 8:
            expected.append(i)
    assert top_patches(Grid(xy, 20.0, (120.0, 120.0), True), values) == expected and len(expected) == 8
    assert top_patches(Grid(np.zeros((5, 2)), 20.0, (20.0, 20.0), True), np.arange(5.0)) == [4]


def test_each_model_s_patches_stand_in_the_order_of_its_attention(tmp_path):
    ranks = {"local": np.arange(12.0), "enhanced": -np.arange(12.0)}
    with open_slide(write_pyramid(tmp_path / "a.svs")) as image:
        picture = draw_strip("strip", "A title", "n = 12", image, GRID, ranks)
    assert picture.figure is not None and picture.numbers is not None
    for axes, first, step in zip(picture.figure.axes, (11, 0), (-1, 1), strict=True):
        sheet = np.asarray(axes.images[0].get_array())
        for place in range(8):
            y, x = (part * (PATCH + 4) + PATCH // 2 for part in divmod(place, 4))
            assert (sheet[y, x] == colour(first + step * place)).all()
    assert picture.numbers.rows[0] == ["local", "1", str(SIDE * 4), str(SIDE), "11.00"]
    assert len(picture.numbers.rows) == 16


def test_an_image_of_another_size_is_not_this_slide(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.svs")) as image:
        unknown = replace(GRID, slide=(1792.0, 512.0), known_size=False)
        assert (on_image(unknown, image).slide, on_image(unknown, image).known_size) == ((2048, 1024), True)
        for other in (replace(GRID, slide=(4096.0, 1024.0)), replace(unknown, xy=GRID.xy + np.array([0, 900]))):
            with pytest.raises(DataError, match="it is not this slide") as caught:
                on_image(other, image)
            assert caught.value.where == str(tmp_path / "a.svs")
