"""Feature files as public tools write them, whole and in the ways that they come to users; the tools are named."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data_builders import features, put, save, write_csv, write_h5
from each_case import each

from fedsteph.client.data.check import check_site
from fedsteph.client.data.discovery import discover
from fedsteph.client.data.formats import read_coords, read_features, read_header, slide_name
from fedsteph.client.data.settings import DataSettings
from fedsteph.common.config.extraction import UNSTATED, Extraction
from fedsteph.common.errors import FeatureFileError, WidthError

X = features()


def stamp(path: Path, attributes: Mapping[str, Any]) -> Path:
    write_h5(path, X.astype(np.float16), key="feats")
    with h5py.File(path, "a") as file:
        file.attrs.update(attributes)
    return path


def refused(path: Path) -> FeatureFileError:
    """The error of a file whose header is refused, which names it and says what to do."""
    with pytest.raises(FeatureFileError) as caught:
        read_header(path)
    assert caught.value.where == str(path) and caught.value.remedy
    return caught.value


@each(
    ("attributes", "extraction", "unit"),
    [
        (
            {"stamp_version": "2.3.0", "extractor": "uni2", "unit": "um", "tile_size_um": 112.0, "tile_size_px": 224}
            | {"code_hash": "deadbeef", "feat_type": "tile"},
            Extraction("uni2", 20.0, 224.0),
            "um",
        ),
        ({"extractor": "uni2", "unit": "um", "tile_size": 256.0}, Extraction("uni2"), "um"),
        ({"extractor": "uni2", "tile_size_um": 256.0}, Extraction("uni2"), "um"),
        ({"extractor": "ctranspath"}, Extraction("ctranspath"), None),
        ({}, UNSTATED, None),
    ],
)
def test_stamp_of_all_ages(attributes, extraction, unit, tmp_path):
    """20x is 0.5 um per pixel. Before version 2, no unit of the coords is stated."""
    path = stamp(tmp_path / "a.h5", attributes)
    header = read_header(path)
    assert (header.layout, header.n_instances, header.width, header.extraction) == ("stamp", 5, 4, extraction)
    np.testing.assert_array_equal(read_features(path), X.astype(np.float16))
    if unit is None:
        with pytest.raises(FeatureFileError, match="a unit that it does not state"):
            read_coords(path)
    else:
        assert read_coords(path).unit == unit


def test_stamp_s_slide_vector_is_no_bag_of_one_patch(tmp_path):
    for kind in ("slide", "patient"):
        assert f"one vector for a {kind}" in refused(stamp(tmp_path / "a.h5", {"feat_type": kind})).what


def test_uni2_h_as_it_is_published(tmp_path):
    values, xy = features(7, 1536), np.arange(14).reshape(1, 7, 2) * 512
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = values[None], xy
    header = read_header(tmp_path / "a.h5")
    assert (header.layout, header.n_instances, header.width) == ("uni2-h", 7, 1536)
    np.testing.assert_array_equal(read_features(tmp_path / "a.h5"), values)
    np.testing.assert_array_equal(read_coords(tmp_path / "a.h5").xy, xy[0])


def test_slide2vec_has_its_coords_elsewhere(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", features=X, tile_index=np.arange(5))
    for path in (tmp_path / "a.npz", save(tmp_path / "a.pt", torch.tensor(X))):
        np.testing.assert_array_equal(read_features(path), X)
        with pytest.raises(FeatureFileError, match=r"says nothing of where.*slide2vec"):
            read_coords(path)


# ---------------------------------------------------------------- HDF5 that cannot be read here


@each(("code", "name"), [(32001, "32001 (blosc)"), (32015, "32015 (zstd)"), (32004, "32004 (lz4)"), (40000, "40000,")])
def test_a_filter_that_is_not_installed_is_named(code, name, tmp_path):
    """An optional filter can be named by a file without being there; its chunk was packed elsewhere."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((5, 4))
        settings.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((5, 4))
        dataset = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, settings)
        dataset.write_direct_chunk((0, 0), b"packed")
    error = refused(tmp_path / "a.h5")
    assert f"filter {name}" in error.what and "not installed" in error.what and "h5repack" in error.remedy


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path):
    for libver, words in (("earliest", "open in another program"), ("latest", "open in another program")):
        with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
            file["features"] = X
            file.flush()
            assert words in refused(tmp_path / "a.h5").what
            put(tmp_path / "copy.h5", (tmp_path / "a.h5").read_bytes())
        np.testing.assert_array_equal(read_features(tmp_path / "a.h5"), X)
    assert "marked as open for writing" in refused(tmp_path / "copy.h5").what, "as after a crash"


# ---------------------------------------------------------------- transposed


def site_of(folder: Path, *values: np.ndarray) -> Path:
    (folder / "features").mkdir(parents=True)
    rows = [("patient_id", "pathology_id", "t", "e")]
    for i, one in enumerate(values):
        np.save(folder / "features" / f"S{i}.npy", one)
        rows.append((f"P{i}", f"S{i}", 100 + i, i % 2))
    write_csv(folder / "labels.csv", rows)
    return folder


def turned(site: Path) -> list[str]:
    problems = discover(site, DataSettings()).problems
    assert all("looks transposed" in problem.what and ".T" in problem.remedy for problem in problems)
    return [Path(problem.where).stem for problem in problems]


def test_coords_tell_which_way_features_lie(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = X.T, np.zeros((5, 2))
    assert "looks transposed: its features are (4, 5)" in refused(tmp_path / "a.h5").what
    assert read_header(write_h5(tmp_path / "b.h5", features(4, 4))).width == 4


def test_without_coords_the_other_files_tell(tmp_path):
    upright = [features(3 + i, 8) for i in range(4)]
    assert turned(site_of(tmp_path / "one", *upright, features(5, 8).T)) == ["S4"]
    assert turned(site_of(tmp_path / "all", *(one.T for one in upright))) == ["S0", "S1", "S2", "S3"]
    assert turned(site_of(tmp_path / "tie", features(37, 384).T, features(30, 384))) == ["S0"]
    # Square, or with as many patches as features: nothing tells, and nothing is refused.
    assert turned(site_of(tmp_path / "square", *upright, features(8, 8))) == []
    assert turned(site_of(tmp_path / "same", features(8, 5), features(8, 5))) == []


def test_a_bag_of_as_many_patches_as_the_others_have_features_is_of_another_encoder(tmp_path):
    site = site_of(tmp_path, *[features(3 + i, 8) for i in range(4)])
    (site / "features" / "S3.npy").unlink()
    write_h5(site / "features" / "S3.h5", features(8, 6))
    [problem] = discover(site, DataSettings()).problems
    assert "its width is 6, while 3 of 4 files have 8" in problem.what
    with pytest.raises(WidthError, match="has 6 features per instance"):
        read_features(site / "features" / "S3.h5", width=8)
    with pytest.raises(WidthError, match="looks transposed"):
        read_features(save(tmp_path / "a.pt", torch.tensor(features(6, 8).T.copy())), width=8)


# ---------------------------------------------------------------- what is told and not read


def test_a_zarr_and_a_packed_table_are_named_with_a_way_out(tmp_path):
    site = site_of(tmp_path, features(5, 8), X, X, X)
    for i in (1, 2, 3):
        (site / "features" / f"S{i}.npy").unlink()
    (site / "features" / "S1.zarr").mkdir()
    (site / "features" / "S2.h5").mkdir()
    (site / "features" / "S2.h5" / "zarr.json").write_text("{}")
    put(site / "features" / "S3.csv.gz", gzip.compress(b"tile_x,tile_y,0,1\n0,0,0.5,0.5\n"))
    problems = check_site(site, DataSettings()).problems
    assert [problem.severity for problem in problems] == ["error"] * 3
    assert ["zarr folder" in problem.what for problem in problems] == [True, True, False]
    assert "gzip" in problems[2].what and "imageFeatureTCGA" in problems[2].what
    assert all("docs/features.md" in problem.remedy for problem in problems)


def test_a_zarr_that_no_label_names_is_not_passed_over(tmp_path):
    site = site_of(tmp_path, features(5, 8))
    (site / "features" / "cohort.zarr").mkdir()
    (site / "features" / "logs").mkdir()
    [problem] = discover(site, DataSettings()).problems
    assert problem.severity == "warning" and "'cohort' is not in labels.csv" in problem.what


def test_folders_in_the_place_of_files_are_named(tmp_path):
    site = site_of(tmp_path)
    (site / "features" / "h5_files").mkdir()
    write_csv(site / "labels.csv", [("patient_id", "pathology_id", "t", "e"), ("P0", "S0", 100, 1)])
    [problem] = discover(site, DataSettings()).problems
    assert problem.what == "the features folder holds no file, but folders: 'h5_files'"


def test_a_slide_s_name_is_the_file_s_without_its_ending():
    names = {"S1.h5": "S1", "A.1.uuid.pt": "A.1.uuid", "S1.csv.gz": "S1", "S1.zarr": "S1"}
    assert [slide_name(Path("x") / name) for name in names] == [*names.values()]
