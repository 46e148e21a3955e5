"""Files with their digest inside: what was written comes back, and a damaged file never does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import flipped
from each_case import each

from fedsteph.common.errors import FedstephError, ModelFileError, RunFolderError
from fedsteph.common.host.checked_file import (
    kept,
    read_arrays,
    read_bytes,
    read_json,
    tell_of_old_files,
    write_arrays,
    write_bytes,
    write_json,
)

CONTENT: dict[str, Any] = {"c": [0.1, None, -0.0, 1e-300], "µ": {"sha256": "inner"}, "left": "x"}
ARRAYS = {"hazards": np.linspace(0, 1, 12).reshape(3, 4), "ids": np.array(["P1", "P22"]), "n": np.array(7)}


def test_the_digest_is_that_of_the_rest_and_other_programs_read_the_files(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "f.json", CONTENT)
    found = json.loads((tmp_path / "new" / "f.json").read_text())
    assert found.pop("sha256") == hashlib.sha256(json.dumps(CONTENT, indent=2).encode()).hexdigest()
    assert found == CONTENT == read_json(tmp_path / "new" / "f.json")
    write_arrays(tmp_path / "f.npz", **ARRAYS)
    with np.load(tmp_path / "f.npz") as file:
        assert {name: file[name].tolist() for name in file} == {name: a.tolist() for name, a in ARRAYS.items()}
    raw = (tmp_path / "f.npz").read_bytes()
    content, _, told = raw.rpartition(b"\nsha256:")
    assert told == hashlib.sha256(content).hexdigest().encode() + b"\n"
    for empty in ({}, {"sha": ""}):
        write_json(tmp_path / "f.json", empty)
        assert read_json(tmp_path / "f.json") == empty


def test_a_file_with_one_flipped_bit_is_never_used(tmp_path: Path) -> None:
    """One in each byte."""
    write_json(tmp_path / "json", CONTENT)
    write_arrays(tmp_path / "arrays", **ARRAYS)
    write_bytes(tmp_path / "bytes", b"anything")
    for name, read in (("json", read_json), ("arrays", read_arrays), ("bytes", read_bytes)):
        content = (tmp_path / name).read_bytes()
        for bit in range(0, 8 * len(content), 7):
            (tmp_path / name).write_bytes(flipped(content, bit))
            with pytest.raises(RunFolderError, match="is damaged") as caught:
                read(tmp_path / name, RunFolderError, "Do this")  # type: ignore[operator]
            assert caught.value.remedy == "Do this" and caught.value.where == str(tmp_path / name)


JUNK = [b"", b"{", b"[]", b"null", b"\xff", b"PK\x05\x06", b"[" * 99_999, b'{"x": NaN, "sha256": ""}', b'{"sha256": 3}']


@each("content", JUNK)
def test_what_is_no_file_of_ours_is_an_error_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    for read in (read_json, read_arrays, read_bytes):
        with pytest.raises(ModelFileError, match=r"is damaged\. Run the same command again"):
            read(tmp_path / "f")  # type: ignore[operator]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_is_not_a_number_is_refused_in_json(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "f", {"a": 1})
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "f", {"a": value})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_files_of_earlier_versions_are_read_with_one_warning_a_process(tmp_path, caplog) -> None:
    tell_of_old_files.cache_clear()
    (tmp_path / "f.json").write_text(json.dumps(CONTENT, indent=2) + "\n")
    np.savez(tmp_path / "f.npz", **ARRAYS)  # type: ignore[arg-type]
    for _ in range(2):
        assert read_json(tmp_path / "f.json") == CONTENT and read_arrays(tmp_path / "f.npz").keys() == ARRAYS.keys()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_damaged_work_is_set_aside_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cell.json"
    assert kept(path, read_json) is None
    write_json(path, CONTENT)
    assert kept(path, read_json) == CONTENT and not caplog.records
    damaged = flipped(path.read_bytes(), 99)
    path.write_bytes(damaged)
    assert kept(path, read_json) is None and not path.exists()
    assert (tmp_path / "cell.json.damaged").read_bytes() == damaged
    assert str(path) in caplog.text and "cell.json.damaged" in caplog.text
    path.write_bytes(damaged)
    with pytest.raises(FedstephError):  # of another kind than work that can be made again
        kept(path, lambda one: read_json(one, RunFolderError))
    assert path.exists()
