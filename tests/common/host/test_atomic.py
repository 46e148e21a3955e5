"""A file is the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedsteph.common.errors import StorageError
from fedsteph.common.host.atomic import write_bytes, write_text


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_written_whole_with_their_folders(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "bytes", b"\x00\xff")
    write_text(tmp_path / "text", "µ\n")
    found = contents(tmp_path)
    assert found.keys() == {"a/b/bytes", "text"}
    assert (found["a/b/bytes"], found["text"]) == (b"\x00\xff", "µ\n".encode())


@pytest.mark.parametrize("crash", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("owner", "step"), [(os, "fdopen"), (os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("existing", [True, False])
def test_a_crash_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, crash, owner, step, existing) -> None:
    if existing:
        (tmp_path / "file").write_bytes(b"old")
    before = contents(tmp_path)

    def crashing(*_: object) -> None:
        assert [path for path in contents(tmp_path) if path.endswith(".part")]  # in the middle of the writing
        raise crash

    monkeypatch.setattr(owner, step, crashing)
    with pytest.raises(StorageError if isinstance(crash, OSError) else KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert contents(tmp_path) == before


def test_the_bytes_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushed, then synced, then renamed: else a power cut could leave the new name on an empty file."""
    path, steps = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(handle: int) -> None:
        steps.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append(("replace", self.stat().st_size))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_bytes(path, b"12345")
    assert steps == [("fsync", 5), ("replace", 5)]
