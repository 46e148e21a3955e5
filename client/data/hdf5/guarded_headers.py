"""Reads the structure of HDF5 files through one helper process, which a damaged file may crash or hang.

The process is started for the first file and answers for all others. It is stopped, and the file named, when a limit
is passed; the next file starts another one. It ends with this process, and after half a minute without a request.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedsteph
from fedsteph.client.data.hdf5.structure import Structure
from fedsteph.client.data.hdf5.watchdog import Watchdog
from fedsteph.common.errors import FeatureFileError
from fedsteph.common.host.unchanged import Unchanged

CPU_SECONDS = 10  # for one file; a site's largest file takes some 0.1 s
WALL_SECONDS = 60.0  # for one file on a slow disk, and for the start
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fedsteph.client.data.hdf5.header_service import main; main()"
)
_DAMAGED = "It is damaged: copy it again from where it was made, or extract the slide again"

_lock = threading.Lock()
_service: _Service | None = None
_counted: Unchanged[Structure] = Unchanged()
_mapped: Unchanged[Structure] = Unchanged()


def structure_of(path: Path, *, every_chunk: bool = False) -> Structure:
    """Return the structure of a regular file; from memory if the file has not changed since the last call.

    Args:
        every_chunk: whether to look where each chunk is, besides counting them: before the values are read.

    Raises:
        FeatureFileError: it is not a whole feature file; or it crashed the HDF5 library or took too long.
        OSError: HDF5 cannot read it.
    """

    def inspected(path: Path) -> Structure:
        answer = _asked({"path": str(path.absolute()), "every_chunk": every_chunk})
        if "what" in answer:
            raise FeatureFileError(answer["what"], remedy=answer["remedy"])
        if "reason" in answer:
            raise OSError(answer["reason"])
        return Structure.of_json(answer["structure"])

    return (_mapped if every_chunk else _counted).get(path, inspected)


class _EndedError(Exception):
    """The helper process ended, or was stopped, while it had a file; ``certain``: by the file, not from outside."""

    def __init__(self, why: str, certain: bool) -> None:
        super().__init__(why)
        self.certain = certain


class _Service:
    """A running helper process."""

    def __init__(self) -> None:
        # The same modules as here, wherever Flower has put the app. Python's own '' is the working directory.
        path = [*filter(None, sys.path), str(Path(fedsteph.__file__).parents[1])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-c", _PROGRAM, json.dumps(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._watchdog = Watchdog(self._process.kill)
        try:
            self._line()
        except BaseException:
            self.stop()
            raise

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        line = json.dumps({**request, "cpu_seconds": CPU_SECONDS}).encode() + b"\n"
        try:
            self._process.stdin.write(line)
        except OSError as error:  # a broken pipe, which Windows calls an invalid argument
            raise _EndedError("ended while it had no file", certain=False) from error
        return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        output, found = self._process.stdout.fileno(), b""
        with self._watchdog.within(WALL_SECONDS):  # killed, the process closes its output
            while not found.endswith(b"\n"):
                part = os.read(output, 2**16)
                if not part:
                    raise self._ended()
                found += part
        return json.loads(found)

    def _ended(self) -> _EndedError:
        status = self._process.wait()
        if self._watchdog.has_bitten:
            return _EndedError(f"took more than {WALL_SECONDS:g} s", certain=True)
        if hasattr(signal, "SIGXCPU") and status == -signal.SIGXCPU:
            return _EndedError(f"took more than {CPU_SECONDS} s of CPU time", certain=True)
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return _EndedError(f"crashed the HDF5 library ({name})", certain=False)

    def stop(self) -> None:
        self._watchdog.end()
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = self._process.returncode or 0  # a fork has no child to wait for


def _asked(request: Mapping[str, Any]) -> Any:
    global _service  # noqa: PLW0603 (one process for all files)
    with _lock:
        for last in (False, True):
            try:
                if _service is None:
                    _service = _started()
                return _service.ask(request)
            except _EndedError as ended:
                _stop()
                # Something else may have ended it, such as its idle time or a lack of memory.
                if last or ended.certain:
                    raise FeatureFileError(f"{ended}, when its header was read", remedy=_DAMAGED) from ended
            except BaseException:  # an answer that nobody has read would be taken for the next file's
                _stop()
                raise
    raise AssertionError


def _started() -> _Service:
    try:
        return _Service()
    except (_EndedError, OSError) as error:
        raise FeatureFileError(
            f"cannot be read: the process that reads headers did not start ({error})",
            remedy="Check that h5py can be imported, and that there is memory for one more process",
        ) from error


def _stop() -> None:
    global _service  # noqa: PLW0603
    if _service is not None:
        _service.stop()
    _service = None


def _after_fork() -> None:
    """A forked process must not share the pipes; it starts a helper of its own."""
    global _service, _lock
    if _service is not None:
        _service.forget()
    _service, _lock = None, threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
