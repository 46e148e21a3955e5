"""Rows read straight from a file are those that HDF5 reads, in whatever order and form they were written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from each_case import each

from fedsteph.client.data.formats import read_coords, read_features
from fedsteph.client.data.hdf5 import feature_file
from fedsteph.client.data.hdf5.guarded_headers import structure_of
from fedsteph.common.errors import FeatureFileError

X = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
PLAIN: tuple[dict[str, Any], ...] = (
    {},
    {"chunks": (1, 4)},
    {"chunks": (1, 4), "libver": "latest", "maxshape": (None, 4)},
    {"chunks": (16, 4)},
    {"chunks": (60, 4), "maxshape": (None, 4)},
    {"chunks": (7, 4), "dtype": ">f2"},
    {"chunks": (1, 3, 4), "shape": (1, 50, 4)},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {"chunks": (16, 3)},
    {"chunks": (16, 4), "compression": "gzip"},
    {"chunks": (16, 4), "fletcher32": True},
    {"chunks": (50, 1)},
)


def written(path: Path, libver: str = "earliest", **options: Any) -> Path:
    """A file of X whose rows are written from the last to the first, with other things between them."""
    shape = options.pop("shape", X.shape)
    with h5py.File(path, "w", libver=libver) as file:
        dataset = file.create_dataset("features", shape, options.pop("dtype", "f4"), **options)
        for i in reversed(range(50)):
            dataset[..., i, :] = X[i]
            if i % 9 == 0:
                file.create_dataset(f"other_{i}", data=np.arange(i + 1))
            file.flush()
        file.create_dataset("coords", data=np.arange(100).reshape(50, 2), chunks=(3, 2))
    return path


@each("options", PLAIN + OTHERS)
def test_every_layout_is_read_as_hdf5_reads_it(options: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", **options)
    found = structure_of(path, every_chunk=True)
    assert (found.pieces is not None) == (options in PLAIN) and found.coords_pieces is not None
    with h5py.File(path) as file:
        expected = np.asarray(file["features"][...], dtype=np.float32).reshape(X.shape)
    np.testing.assert_array_equal(read_features(path), expected)
    np.testing.assert_allclose(expected, X, rtol=1e-3)
    np.testing.assert_array_equal(read_coords(path).xy, np.arange(100).reshape(50, 2))
    path.unlink()


def test_chunks_side_by_side_are_one_piece(tmp_path: Path) -> None:
    """Otherwise a large slide would take a request to the system for each of its rows."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=np.ones((4000, 64), np.float32), chunks=(1, 64))
    found = structure_of(tmp_path / "a.h5", every_chunk=True)
    assert found.pieces is not None and len(found.pieces.starts) < 400


@pytest.mark.parametrize("change", ["shorter", "newer"])
def test_a_file_that_changes_while_it_is_read_is_named(change: str, tmp_path: Path, monkeypatch) -> None:
    path = written(tmp_path / "a.h5", chunks=(1, 4))

    def inspected(path: Path, *, every_chunk: bool = False) -> Any:
        found = structure_of(path, every_chunk=every_chunk)
        if every_chunk and change == "shorter":
            os.truncate(path, found.pieces.starts[0] + 8)
        elif every_chunk:
            os.utime(path)
        return found

    monkeypatch.setattr(feature_file, "structure_of", inspected)
    with pytest.raises(FeatureFileError, match="changed while it was read"):
        read_features(path)
