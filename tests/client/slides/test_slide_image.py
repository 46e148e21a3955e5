"""Patches and thumbnails out of a small real pyramid, and every file that is no whole slide image."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from slide_images import PLACES, SIDE, colour, write_pyramid, write_svs

from fedsteph.client.slides.slide_image import PATCH, image_of, open_slide
from fedsteph.common.errors import ConfigError, DataError

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("tiffslide")


def test_a_patch_is_what_lies_there_from_whatever_level(tmp_path):
    for levels in (1, 3):
        with open_slide(write_pyramid(tmp_path / f"{levels}.svs", levels=levels)) as image:
            assert image.size == (2048, 1024)
            for i, (x, y) in enumerate(PLACES):
                found = image.patch(x, y, SIDE)
                assert found.shape == (PATCH, PATCH, 3) and (found == colour(i)).all()
            both = image.patch(0, 0, 2 * SIDE)
            assert (both[5, 5] == colour(0)).all() and (both[5, -5] == colour(1)).all()
            assert (both[-5, 5] == colour(7)).all()


def test_an_svs_has_its_thumbnail_between_the_levels(tmp_path):
    with open_slide(write_svs(tmp_path / "a.svs")) as image:
        assert image.size == (2048, 1024) and (image.patch(*PLACES[11], SIDE) == colour(11)).all()
        small = image.thumbnail(256)
    assert small.shape == (128, 256, 3) and (small[10, 10] == colour(0)).all()


def test_what_reaches_over_the_edge_is_white(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.tif", (7 * SIDE, 2 * SIDE))) as image:
        found = image.patch(6.5 * SIDE, 0, SIDE)
    assert (found[:, :40] == colour(6)).all() and (found[:, 60:] == 255).all()


def test_a_thumbnail_is_the_whole_slide_made_small(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.tif")) as image:
        small, large = image.thumbnail(256), image.thumbnail(9999)
    assert small.shape == (128, 256, 3) and large.shape == (1024, 2048, 3)
    assert (small[10, 10] == colour(0)).all() and (small[40, 140] == colour(11)).all() and (small[-1] == 255).all()


def test_grey_is_shown_as_grey_and_sixteen_bits_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "grey.tif", np.full((256, 256), 77, np.uint8), tile=(128, 128))
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((256, 256), np.uint16), tile=(128, 128))
    with open_slide(tmp_path / "grey.tif") as image:
        assert (image.patch(0, 0, 128) == 77).all()
    with open_slide(tmp_path / "deep.tif") as image, pytest.raises(DataError, match="1 channels of uint16"):
        image.patch(0, 0, 128)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught, open_slide(path):
        pass
    assert caught.value.where == str(path) and caught.value.remedy
    return caught.value.what


def test_what_is_no_slide_image_is_refused(tmp_path):
    (tmp_path / "junk.svs").write_bytes(b"junk")
    (tmp_path / "empty.svs").write_bytes(b"")
    for name in ("junk.svs", "empty.svs"):
        assert "is not a slide image that can be read" in refused(tmp_path / name)
    for path in (tmp_path / "absent.svs", tmp_path):
        assert "cannot be read" in refused(path)


def test_a_file_that_is_cut_short_is_refused_wherever_it_ends(tmp_path):
    content = write_pyramid(tmp_path / "whole.svs").read_bytes()
    path = tmp_path / "cut.svs"
    for part in (0.999, 0.9, 0.5, 0.1, 0.001):
        path.write_bytes(content[: int(part * len(content))])
        refused(path)


def test_large_images_are_read_in_parts_or_not_at_all(tmp_path):
    """One in tiles, without further levels; one, of 200 MB if it were read, in a single piece."""
    tifffile.imwrite(tmp_path / "tiles.tif", shape=(7200, 7200), dtype=np.uint8, tile=(240, 240))
    whole = {"shape": (8192, 8192, 3), "dtype": np.uint8, "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "piece.tif", rowsperstrip=8192, **whole)
    with open_slide(tmp_path / "tiles.tif") as image:
        assert (image.patch(7000, 7000, 192) == 0).all()
        with pytest.raises(DataError, match="has no level"):
            image.thumbnail(900)
        with pytest.raises(DataError, match="has no level"):
            image.patch(0, 0, 1e8)
    assert "too large to read a part alone" in refused(tmp_path / "piece.tif")


def test_without_the_extra_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiffslide", None)
    with pytest.raises(ConfigError, match="needs tiffslide") as caught, open_slide(tmp_path / "a.svs"):
        pass
    assert "fedsteph[slides]" in caught.value.remedy


def test_a_slide_s_image_is_found_by_its_name(tmp_path):
    for name in ("S1.svs", "S10.svs", "S2.1a2b.NDPI", "S3.tif", "S3.tiff", "S4.1.svs", "S4.2.svs", "S5.png", "S6.h5"):
        (tmp_path / name).touch()
    assert image_of(tmp_path, "S1").name == "S1.svs" and image_of(tmp_path, "S2").name == "S2.1a2b.NDPI"
    assert image_of(tmp_path, "S5", (".png",)).name == "S5.png"
    assert image_of(tmp_path / "S1.svs", "S9") == tmp_path / "S1.svs"
    for name, said in (("S3", "2 images"), ("S4", "2 images"), ("S5", "no image"), ("S6", "no image"), ("../S1", "no")):
        with pytest.raises(DataError, match=said) as caught:
            image_of(tmp_path, name)
        assert caught.value.where == str(tmp_path) and caught.value.remedy
