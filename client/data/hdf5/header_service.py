"""The helper process that inspects HDF5 files, under limits on memory and CPU time; guarded_headers.py starts it.

Reads one JSON request per line from stdin and answers it with one line on stdout. macOS limits the CPU time alone, and
Windows neither; there, what bounds a damaged file is the wall time that guarded_headers.py gives it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsteph.client.data.hdf5.inspection import inspect
from fedsteph.client.data.hdf5.watchdog import Watchdog
from fedsteph.client.data.source import told_briefly
from fedsteph.common.errors import FeatureFileError

try:
    import resource

    _CAN_LIMIT = True
except ImportError:  # on Windows
    _CAN_LIMIT = False

_MEMORY_BYTES = 2**30  # beyond what the process has after its imports
_IDLE_SECONDS = 30.0  # then it ends; the next file starts another one


def main() -> None:
    """Answer requests until stdin is closed, which the death of the parent does too, or nothing is asked for long."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _limit_memory()
    _say(replies, "ready")
    idle = Watchdog(lambda: os._exit(0))
    while line := _asked(idle):
        request = json.loads(line)
        _limit_cpu(request["cpu_seconds"])
        _say(replies, _answer(Path(request["path"]), request["every_chunk"]))


def _asked(idle: Watchdog) -> bytes:
    """The next request; empty at the end of stdin."""
    with idle.within(_IDLE_SECONDS):
        return sys.stdin.buffer.readline()


def _answer(path: Path, every_chunk: bool) -> dict[str, Any]:
    try:
        return {"structure": asdict(inspect(path, every_chunk))}
    except FeatureFileError as error:
        return {"what": error.what, "remedy": error.remedy}
    # HDF5 may raise almost any exception on a damaged file.
    except Exception as error:  # noqa: BLE001
        return {"reason": told_briefly(error)}


def _say(replies: int, content: object) -> None:
    line = json.dumps(content).encode() + b"\n"
    while line:
        line = line[os.write(replies, line) :]


def _limit_memory() -> None:
    if not _CAN_LIMIT:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write
    statm = Path("/proc/self/statm")
    if statm.exists():
        _lower(resource.RLIMIT_AS, int(statm.read_text().split()[0]) * resource.getpagesize() + _MEMORY_BYTES)


def _limit_cpu(seconds: int) -> None:
    if not _CAN_LIMIT:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)


def _lower(which: int, limit: int) -> None:
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
