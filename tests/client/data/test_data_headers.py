"""Headers are read once, and again whenever a file is another one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from data_builders import write_h5

from fedsteph.client.data import headers
from fedsteph.client.data.formats import FeatureHeader, read_header
from fedsteph.client.data.headers import known_header
from fedsteph.common.errors import FeatureFileError
from fedsteph.common.host import unchanged


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """The files that were really read; an empty memory, which trusts files however new they are."""
    seen: list[Path] = []

    def read(path: Path) -> FeatureHeader:
        seen.append(path)
        return read_header(path)

    monkeypatch.setattr(headers, "read_header", read)
    monkeypatch.setattr(headers, "_known", unchanged.Unchanged())
    monkeypatch.setattr(unchanged, "_SETTLED_NS", -1)
    return seen


def features(path: Path, n: int = 3) -> Path:
    return write_h5(path, np.ones((n, 4), np.float32))


def test_a_file_is_read_once(tmp_path, reads):
    paths = [features(tmp_path / f"{k}.h5", n=k + 1) for k in range(3)]
    for _ in range(3):
        assert [known_header(path) for path in paths] == [read_header(path) for path in paths]
    assert reads == paths


def test_a_file_that_was_written_again_is_read_again(tmp_path, reads):
    path = features(tmp_path / "a.h5")
    assert known_header(path).n_instances == 3
    features(path, n=8)
    assert known_header(path).n_instances == 8
    os.utime(path, ns=(1, 1))
    assert known_header(path).n_instances == 8 and len(reads) == 3


def test_another_file_in_its_place_with_its_size_and_time_is_read_again(tmp_path, reads):
    path, other = features(tmp_path / "a.h5"), write_h5(tmp_path / "b", np.ones((4, 3), np.float32))
    known_header(path)
    with path.open("ab") as file:
        file.write(bytes(other.stat().st_size - path.stat().st_size))
    known_header(path)
    status = path.stat()
    assert other.stat().st_size == status.st_size
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert (known_header(path).n_instances, known_header(path).width) == (4, 3)


def test_a_file_of_just_now_is_not_trusted(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(unchanged, "_SETTLED_NS", 10**18)
    path = features(tmp_path / "a.h5")
    assert known_header(path) == known_header(path) and len(reads) == 2


def test_what_cannot_be_read_is_tried_again(tmp_path, reads):
    path = tmp_path / "a.h5"
    for _ in range(2):
        with pytest.raises(FeatureFileError, match="cannot be opened"):
            known_header(path)
    path.write_bytes(b"no features")
    for _ in range(2):
        with pytest.raises(FeatureFileError, match="neither HDF5"):
            known_header(path)
    assert len(reads) == 4


def test_the_memory_is_bounded(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(unchanged, "_MOST_FILES", 2)
    paths = [features(tmp_path / f"{k}.h5") for k in range(4)]
    for path in (*paths, *reversed(paths)):
        known_header(path)
    assert reads == [*paths, paths[1], paths[0]]
