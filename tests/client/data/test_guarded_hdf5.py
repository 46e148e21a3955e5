"""No HDF5 file hangs or crashes the process that asks for it, and none leads to another file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import hdf5_mutants
import numpy as np
import psutil
import pytest
from data_builders import features, write_h5, write_site
from each_case import each

from fedsteph.client.data.check import check_site
from fedsteph.client.data.discovery import discover
from fedsteph.client.data.formats import read_features, read_header
from fedsteph.client.data.hdf5 import guarded_headers
from fedsteph.client.data.settings import DataSettings
from fedsteph.common.errors import FeatureFileError

X = features(20, 4)
LOOPS = 1419  # the seed of a mutant of 6 KB that HDF5 2.0 reads for ever
CHILDREN = """
import os, psutil, sys
from pathlib import Path
from fedsteph.client.data.formats import read_header
read_header(Path(sys.argv[1]))
print(*[child.pid for child in psutil.Process().children()], flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Reads a whole file, which works in every state of the helper process."""

    def read() -> None:
        path = write_h5(tmp_path / "whole.h5", X)
        np.testing.assert_array_equal(read_features(path), X)

    yield read
    read()


def helper() -> psutil.Process:
    [found] = [child for child in psutil.Process().children() if "header_service" in " ".join(child.cmdline())]
    return found


def test_one_process_reads_a_whole_site(tmp_path, whole):
    whole()
    one = helper().pid
    site = write_site(tmp_path / "site", 12)
    assert check_site(site, DataSettings()).ok and helper().pid == one


def test_a_file_that_is_read_for_ever_is_named(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(guarded_headers, "CPU_SECONDS", 1)
    path = tmp_path / "a.h5"
    path.write_bytes(hdf5_mutants.mutant(hdf5_mutants.originals()["fletcher32"], LOOPS)[0])
    with pytest.raises(FeatureFileError) as caught:
        read_header(path)
    assert caught.value.where == str(path) and caught.value.remedy
    if h5py.version.hdf5_version_tuple[:2] == (2, 0):
        assert "took more than 1 s of CPU time" in caught.value.what


def test_a_process_that_is_stuck_is_stopped_and_the_file_named(tmp_path, whole, monkeypatch):
    whole()
    stuck = helper()
    stuck.suspend()  # as on a network drive that does not answer
    monkeypatch.setattr(guarded_headers, "WALL_SECONDS", 0.2)
    path = write_h5(tmp_path / "a.h5", X)
    with pytest.raises(FeatureFileError, match=r"a\.h5: took more than 0\.2 s"):
        read_header(path)
    assert not stuck.is_running()
    monkeypatch.undo()
    assert read_header(path).n_instances == 20


def test_a_process_that_was_killed_is_started_again(whole):
    for _ in range(2):
        whole()
        one = helper()
        one.kill()
        one.wait()
    whole()
    assert helper().pid != one.pid


def test_a_file_that_crashes_the_library_is_named(tmp_path, whole, monkeypatch):
    """A crash is the end of the process by a signal, which is sent here."""
    whole()
    path = write_h5(tmp_path / "a.h5", X)
    running, asked = guarded_headers._Service.ask, []

    def crash(self, request):
        asked.append(request)
        os.kill(helper().pid, signal.SIGSEGV)
        return running(self, request)

    monkeypatch.setattr(guarded_headers._Service, "ask", crash)
    with pytest.raises(FeatureFileError, match=r"a\.h5: (crashed the HDF5 library \(SIGSEGV\)|ended while)"):
        read_header(path)
    assert len(asked) == 2, "the first may have been ended from outside"
    monkeypatch.undo()


@each("end", ["returns", "killed"])
def test_it_ends_with_the_process_that_started_it(end, tmp_path):
    path = write_h5(tmp_path / "a.h5", X)
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(path), end], capture_output=True, text=True, check=False, cwd="/"
    )
    [pid] = map(int, done.stdout.split())
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=60)


def test_a_forked_process_has_one_of_its_own(whole):
    whole()
    one = helper().pid
    child = os.fork()
    if not child:
        code = 1
        try:
            assert not psutil.Process().children()
            whole()
            assert helper().pid != one
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    whole()
    assert helper().pid == one


def external_link(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = h5py.ExternalLink(str(secret), "/features")


def external_link_below_a_soft_one(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["other"] = h5py.ExternalLink(str(secret), "/")
        file["features"] = h5py.SoftLink("/other/features")


def external_coords(path: Path, secret: Path) -> None:
    write_h5(path, X)
    with h5py.File(path, "r+") as file:
        del file["coords"]
        file["coords"] = h5py.ExternalLink(str(secret), "/features")


def external_storage(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (20, 4), "f4", external=[(str(secret), 0, 320)])


def virtual(path: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout((20, 4), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "features", (20, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("features", layout)


def circle(path: Path, secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"], file["features"] = h5py.SoftLink("/features"), h5py.SoftLink("a")


@each(
    ("build", "words"),
    [
        (external_link, "a link to another file under 'features'"),
        (external_link_below_a_soft_one, "a link to another file under 'other'"),
        (external_coords, "a link to another file under 'coords'"),
        (external_storage, "keeps its 'features' in another file"),
        (virtual, "keeps its 'features' in another file"),
        (circle, "links that lead in a circle"),
    ],
)
def test_no_other_file_is_opened(build, words, tmp_path, whole):
    for secret in (tmp_path / "secret.h5", tmp_path / "pipe"):
        if not secret.exists():
            write_h5(secret, X) if secret.suffix else os.mkfifo(secret)
        build(tmp_path / "a.h5", secret)
        for read in (read_header, read_features):
            with pytest.raises(FeatureFileError, match=words) as caught:
                read(tmp_path / "a.h5")
            assert caught.value.where == str(tmp_path / "a.h5")


def test_links_inside_the_file_and_to_it_are_followed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["uni/values"] = X
        file["here"], file["features"] = h5py.SoftLink("uni"), h5py.SoftLink("/here/./values")
    (tmp_path / "b.h5").symlink_to(tmp_path / "a.h5")
    np.testing.assert_array_equal(read_features(tmp_path / "b.h5"), X)


def test_only_regular_files_are_opened(tmp_path):
    site = write_site(tmp_path / "site")
    paths = [site / "features" / f"P0{i}-DX1.uuid.h5" for i in range(1, 6)]
    for path in paths:
        path.unlink()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(paths[0])
    paths[1].symlink_to(tmp_path / "pipe")
    paths[2].symlink_to("/dev/zero")
    paths[4].symlink_to(tmp_path / "nowhere")
    at = Path.cwd()
    os.chdir(paths[3].parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(paths[3].name)
        os.chdir(at)
        found = {problem.where: problem.what for problem in discover(site, DataSettings()).problems}
    words = ("is a named pipe", "is a named pipe", "is a device", "is a socket", "cannot be opened (No such file")
    assert [found[str(path)][: len(word)] for path, word in zip(paths, words, strict=True)] == [*words]
