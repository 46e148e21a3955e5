"""A file of which only a part was ever written is never read as zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import torch
from data_builders import features, save, write_h5, write_site
from each_case import each

from fedsteph.client.data import formats
from fedsteph.client.data.bags import open_cohort
from fedsteph.client.data.check import check_site
from fedsteph.client.data.formats import read_features, read_header
from fedsteph.client.data.settings import DataSettings
from fedsteph.common.errors import DataError, FeatureFileError

X = features(50, 4)
LAYOUTS: tuple[dict[str, Any], ...] = (
    {},
    {"chunks": (1, 4)},
    {"chunks": (16, 4)},
    {"chunks": (16, 3)},
    {"chunks": (16, 4), "compression": "gzip"},
    {"chunks": (10, 2), "shuffle": True, "fletcher32": True, "compression": "lzf"},
    {"chunks": (7, 4), "maxshape": (None, 4), "libver": "latest"},
    {"chunks": (60, 4), "maxshape": (None, 4), "libver": "latest", "fletcher32": True},
)


def partly(path: Path, n: int, libver: str = "earliest", **options: Any) -> Path:
    """50 rows are promised, ``n`` are written."""
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("features", shape=X.shape, dtype="f4", **options)[:n] = X[:n]
    return path


@each("options", LAYOUTS)
def test_a_part_is_refused_and_the_whole_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    for n in (0, 1, 20, 34, 49):
        with pytest.raises(FeatureFileError, match=r"promises \d+ |only zeros in its last"):
            read_features(partly(tmp_path / "part.h5", n, **options))
    np.testing.assert_array_equal(read_features(partly(tmp_path / "whole.h5", 50, **options)), X)
    chunks = options.get("chunks")
    if chunks is not None and chunks[0] < 50:  # one chunk at least is missing: no value has to be read
        with pytest.raises(FeatureFileError, match=r"promises \d+ chunks of 'features' and holds"):
            read_header(partly(tmp_path / "part.h5", 20, **options))


def test_neither_a_check_nor_a_training_takes_it(tmp_path: Path) -> None:
    site = write_site(tmp_path / "site")
    partly(site / "features" / "P01-DX1.uuid.h5", 20, chunks=(16, 4), compression="gzip")
    [problem] = check_site(site, DataSettings()).problems
    assert problem.severity == "error" and "P01-DX1" in problem.where and "holds 2" in problem.what
    with pytest.raises(DataError, match="promises 4 chunks"):
        open_cohort(site, DataSettings())


def test_coords_count_as_well(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "a.h5", X)
    with h5py.File(path, "r+") as file:
        del file["coords"]
        file.create_dataset("coords", shape=(50, 2), dtype="i8", chunks=(10, 2))[:30] = 1
    with pytest.raises(FeatureFileError, match="promises 5 chunks of 'coords' and holds 3"):
        read_header(path)


@each("n", [49, 51, 0, 100])
def test_as_many_coords_as_features(n: int, tmp_path: Path) -> None:
    site = write_site(tmp_path / f"site{n}")
    for values, xy in ((X, np.ones((n, 2))), (X[None], np.ones((1, n, 2)))):
        path = site / "features" / "P01-DX1.uuid.h5"
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = values, xy
        [problem] = check_site(site, DataSettings()).problems
        assert (problem.severity, problem.where) == ("error", str(path))
        assert f"has coords of shape {xy.shape} for 50 instances" in problem.what
        with pytest.raises(DataError, match="1 problem found"):
            open_cohort(site, DataSettings())


def test_zeros_at_the_end_of_a_tensor(tmp_path: Path) -> None:
    padded = torch.cat([torch.tensor(X), torch.zeros(14, 4)])
    with pytest.raises(FeatureFileError, match="has only zeros in its last 14 of 64 instances"):
        read_features(save(tmp_path / "a.pt", padded))


def test_more_than_the_free_memory_is_refused_before_it_is_taken(tmp_path: Path, monkeypatch) -> None:
    path = write_h5(tmp_path / "a.h5", np.ones((1100, 4096), np.float32), compression="gzip", chunks=(1100, 4096))
    assert path.stat().st_size < 2**20 and read_features(path).shape == (1100, 4096)
    free = psutil.virtual_memory()._replace(available=17 * 10**6)
    monkeypatch.setattr(formats.psutil, "virtual_memory", lambda: free)
    with pytest.raises(FeatureFileError, match=r"states 1100 x 4096 features, which need .* GiB of memory"):
        read_features(path)


def odd_site(folder: Path, values: np.ndarray) -> list[tuple[str, str]]:
    """The severity and words of what a check says of a site with one slide of these values."""
    site = write_site(folder)
    write_h5(site / "features" / "P01-DX1.uuid.h5", values, encoder="uni_v2", magnification=20)
    problems = check_site(site, DataSettings()).problems
    open_cohort(site, DataSettings()).bag(1)  # it may be true
    return [(problem.severity, problem.what) for problem in problems if "P01-DX1" in problem.where]


def test_odd_values_are_warnings(tmp_path: Path) -> None:
    holes = X.copy()
    holes[[3, 7]] = 0
    cases = {
        "2 of its 50 instances are all zero": holes,
        "its 50 instances are all the same": np.tile(X[:1], (50, 1)),
        "its first 25 instances come 2 times": np.tile(X[:25], (2, 1)),
        "its features are all equal": np.full((1, 4), 7, np.float32),
    }
    for k, (what, values) in enumerate(cases.items()):
        [(severity, found)] = odd_site(tmp_path / str(k), values)
        assert severity == "warning" and found.startswith(what)
    assert odd_site(tmp_path / "even", X) == []
    assert odd_site(tmp_path / "first row again", np.concatenate([X, X[:3]])) == []


def test_one_slide_under_two_names(tmp_path: Path) -> None:
    site = write_site(tmp_path / "site")
    one, other = (site / "features" / f"P0{i}-DX1.uuid.h5" for i in (1, 2))
    other.write_bytes(one.read_bytes())
    [problem] = check_site(site, DataSettings()).problems
    assert (problem.severity, problem.where) == ("warning", str(other))
    assert "has the same features as the slide 'P01-DX1.uuid'" in problem.what
    for link in (other.symlink_to, other.hardlink_to):
        other.unlink()
        link(one)
        assert "error" in {problem.severity for problem in check_site(site, DataSettings()).problems}
        with pytest.raises(DataError, match=r"is the same file as that of the slide 'P01-DX1\.uuid'"):
            open_cohort(site, DataSettings())
