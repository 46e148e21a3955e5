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
from fedsteph.client.data.hdf5.plain_chunks import is_plain, read_plain
from fedsteph.common.errors import FeatureFileError

X = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
PLAIN: tuple[dict[str, Any], ...] = (
    {"chunks": (1, 4)},
    {"chunks": (1, 4), "libver": "latest", "maxshape": (None, 4)},
    {"chunks": (16, 4)},
    {"chunks": (60, 4), "maxshape": (None, 4)},
    {"chunks": (7, 4), "dtype": ">f2"},
    {"chunks": (1, 3, 4), "shape": (1, 50, 4)},
)
OTHERS: tuple[dict[str, Any], ...] = (
    {},
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


@each("plain", (True, False))
def test_every_layout_is_read_as_hdf5_reads_it(plain: bool, tmp_path: Path) -> None:
    for options in PLAIN if plain else OTHERS:
        path = written(tmp_path / "a.h5", **options)
        with h5py.File(path) as file:
            assert is_plain(file["features"]) == plain
            expected = np.asarray(file["features"][...], dtype=np.float32).reshape(X.shape)
        np.testing.assert_array_equal(read_features(path), expected)
        np.testing.assert_allclose(expected, X, rtol=1e-3)
        np.testing.assert_array_equal(read_coords(path).xy, np.arange(100).reshape(50, 2))
        path.unlink()


def test_a_file_that_becomes_shorter_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", chunks=(1, 4))
    with h5py.File(path) as file:
        cut = tmp_path / "cut.h5"
        cut.write_bytes(path.read_bytes())
        os.truncate(cut, file["features"].id.get_chunk_info(0).byte_offset + 8)
        with pytest.raises(FeatureFileError, match="changed while it was read"):
            read_plain(file["features"], cut)
