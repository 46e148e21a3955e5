"""One process at a time in a folder; the lock's own file is no way to harm another."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedsteph.common.errors import RunFolderError
from fedsteph.common.host.lock import exclusive

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys
from pathlib import Path
from fedsteph.common.host.lock import exclusive
with exclusive(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with exclusive(folder, wait=False):
        with (
            pytest.raises(RunFolderError, match="another process is working in this folder") as caught,
            exclusive(folder, wait=False),
        ):
            raise AssertionError("held twice")
        assert caught.value.where == str(folder)
    with exclusive(folder, wait=False), exclusive(tmp_path, wait=False):
        pass


def test_it_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path, wait=False):
        raise KeyError
    with exclusive(tmp_path, wait=False):
        pass


def test_whoever_waits_has_its_turn(tmp_path: Path) -> None:
    order: list[str] = []

    def wait() -> None:
        with exclusive(tmp_path, wait=True):
            order.append("second")

    with exclusive(tmp_path, wait=True):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_process_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError), exclusive(tmp_path, wait=False):
            pass
        holder.kill()
    with exclusive(tmp_path, wait=False):
        pass


@pytest.mark.parametrize("wait", [False, True])
def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path, wait: bool) -> None:
    """Whoever may write into the folder could else have any file of the account emptied, or made."""
    folder, target, fresh = tmp_path / "run", tmp_path / "precious", tmp_path / "fresh"
    folder.mkdir()
    target.write_text("precious")
    os.utime(target, ns=(1, 1))
    for aim in (target, fresh):
        (folder / ".lock").symlink_to(aim)
        with pytest.raises(OSError, match="symbolic link"), exclusive(folder, wait=wait):
            raise AssertionError("the link was followed")
        (folder / ".lock").unlink()
    assert target.read_text() == "precious" and target.stat().st_mtime_ns == 1 and not fresh.exists()


def test_a_lock_that_is_there_is_not_emptied(tmp_path: Path) -> None:
    """Under another name, a hard link, it may be a file that somebody needs."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").hardlink_to(tmp_path / "precious")
    with exclusive(tmp_path, wait=False):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_new_lock_is_for_its_account_alone_and_not_handed_to_programs(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with exclusive(tmp_path, wait=False):
            assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600
            child = "import os; print([os.readlink(f'/proc/self/fd/{fd}') for fd in (3, 4, 5, 6, 7, 8, 9, 10) "
            child += "if os.path.exists(f'/proc/self/fd/{fd}')])"
            done = subprocess.run(
                [sys.executable, "-c", child], close_fds=False, capture_output=True, text=True, check=True
            )
            assert str(tmp_path) not in done.stdout
    finally:
        os.umask(before)
