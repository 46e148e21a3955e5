"""A full disk is named with the path, the free space and a remedy, whatever was being written, and spoils nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from each_case import each
from full_disk import no_file_above

from fedsteph.commands.terminal.exit_codes import run
from fedsteph.common.errors import StorageError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import require_room, writing
from fedsteph.common.host.progress_log import ProgressLog, read_progress
from fedsteph.common.trust.audit_log import AuditLog, Event, verify
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.keys import Identity

_LONG = "x" * 4000
_WRITERS: dict[str, Callable[[Path], object]] = {
    "file": lambda folder: atomic.write_text(folder / "file", _LONG),
    "progress.jsonl": lambda folder: ProgressLog(folder, "a").report("local", 0, 1, _LONG),
    "audit.jsonl": lambda folder: AuditLog(folder).append(Event("run.start", "noted", "run", None, reason=_LONG)),
    "b.sign.key": lambda folder: write_identity(folder, "b", Identity.generate()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    atomic.write_text(tmp_path / "file", "old")
    ProgressLog(tmp_path, "a").report("local", 0, 1)
    AuditLog(tmp_path).append(Event("run.start", "noted", "run"))
    return tmp_path


@each("name", _WRITERS)
def test_the_path_the_room_and_the_remedy_are_named(folder: Path, name: str) -> None:
    with no_file_above(64 if name.endswith("key") else 1000), pytest.raises(StorageError) as caught:
        _WRITERS[name](folder)
    assert caught.value.where == str(folder / name)
    assert "File too large" in caught.value.what and "MiB are free there" in caught.value.what
    assert "ulimit -f" in str(caught.value.remedy) and caught.value.exit_code == 1
    assert not [path.name for path in folder.iterdir() if path.suffix in (".part", ".key")]


def test_what_was_there_is_whole_and_the_next_line_is_too(folder: Path) -> None:
    for name, write in _WRITERS.items():
        with no_file_above(64 if name.endswith("key") else 1000), pytest.raises(StorageError):
            write(folder)
    assert (folder / "file").read_text() == "old"
    ProgressLog(folder, "a").report("local", 1, 1, "done")
    assert [line.message for line in read_progress((folder / "progress.jsonl").read_text())] == ["", "done"]
    AuditLog(folder).append(Event("run.end", "noted", "run"))
    assert verify(folder).torn_bytes == 0 and len(write_identity(folder, "b", Identity.generate())) == 2


@each("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOTDIR])
def test_every_error_of_the_system_has_a_remedy(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(StorageError, match=rf"{tmp_path}: cannot be written \({os.strerror(number)}; ") as caught,
        writing(tmp_path),
    ):
        raise OSError(number, os.strerror(number))
    assert caught.value.remedy


@each("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_a_disk_error_without_a_path_is_no_bug(capsys, number: int) -> None:
    def command() -> None:
        raise OSError(number, os.strerror(number), "/data/x")

    assert run(command) == 1 and "error: /data/x: cannot be written" in capsys.readouterr().err


def test_half_a_module_of_bytecode_is_not_taken_for_a_user_who_leaves(capsys) -> None:
    """A full disk can leave such bytecode, and Typer gives the same exception for both."""

    def command() -> None:
        raise click.Abort from EOFError("marshal data too short")

    assert run(command) == 3
    assert "EOFError: marshal data too short" in capsys.readouterr().err.splitlines()[-1]


def test_output_onto_a_full_disk_is_the_users_case() -> None:
    """``/dev/full`` takes nothing; the output is kept back by Python until the end."""
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "fedsteph", "config"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("error: the output or a temporary file cannot be written (No space")
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_disk_with_room_is_no_hindrance(tmp_path: Path) -> None:
    require_room(tmp_path / "not" / "yet" / "there")
