"""Replay protection: the current run, a growing send counter, and the last accepted envelope per sender."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ReplayedEnvelopeError, RunFolderError, WrongRunError
from fedsteph.common.host import checked_file

SENT_FILE = "sent.json"
RECEIVED_FILE = "received.json"
RUNS_FILE = "runs.json"
_RESTORE = "Restore it from a backup"


@dataclass(frozen=True)
class _Last:
    """The last accepted envelope of one sender's keys."""

    sequence: int
    sha256: str


def enter_run(state: Path, run: str) -> None:
    """Make ``run`` the current run. A run that was left for a newer one cannot be entered again.

    Raises:
        WrongRunError: the run was left before.
        RunFolderError: the file is damaged.
    """
    path = state / RUNS_FILE
    known = _read(path) if path.exists() else {"current": run, "left": []}
    current, left = known.get("current"), known.get("left")
    if not isinstance(left, list) or not isinstance(current, str):
        raise RunFolderError("is damaged", where=path, remedy=_RESTORE)
    if run in left:
        raise WrongRunError("the run was left for a newer one", where="request")
    if run != current or not path.exists():
        gone = [*left, current] if run != current else left
        checked_file.write_json(path, {"current": run, "left": gone})


def next_sequence(state: Path) -> int:
    """The sequence number of the next envelope: saved to disk before it is used, and never given twice.

    It is at least the milliseconds since 1970, so that a site that lost its state continues above its old numbers.

    Raises:
        RunFolderError: the counter's file is damaged, or its number is out of range.
    """
    path = state / SENT_FILE
    number = (_read(path) if path.exists() else {"sequence": 0}).get("sequence")
    if type(number) is not int:
        raise RunFolderError("is damaged", where=path, remedy="Restore it from a backup, or delete it")
    number = max(number + 1, time.time_ns() // 1_000_000)
    if number >= 2**63:
        raise RunFolderError("holds a number out of range", where=path, remedy="Delete it")
    checked_file.write_json(path, {"sequence": number})
    return number


def accept_once(state: Path, sender: str, sequence: int, envelope: bytes) -> None:
    """Record an opened envelope; refuse it unless it is newer than the sender's last accepted one, or identical to it.

    Accepting the identical envelope makes a request that is repeated after a crash harmless.

    Args:
        sender: fingerprint of the sender's keys; new keys start a new count.

    Raises:
        ReplayedEnvelopeError: a newer envelope, or another one with this number, was accepted before.
        RunFolderError: the file is damaged.
    """
    path = state / RECEIVED_FILE
    seen = {key: _last(value, path) for key, value in (_read(path) if path.exists() else {}).items()}
    new = _Last(sequence, hashlib.sha256(envelope).hexdigest())
    last = seen.get(sender)
    if last == new:
        return
    if last is not None and sequence <= last.sequence:
        remedy = "Ask its sender for a new one"
        raise ReplayedEnvelopeError("is not newer than the last that was accepted", where="envelope", remedy=remedy)
    seen[sender] = new
    checked_file.write_json(path, {key: asdict(value) for key, value in seen.items()})


def _last(value: object, path: Path) -> _Last:
    try:
        return build(_Last, value, path)
    except ConfigError as error:
        raise RunFolderError("is damaged", where=path, remedy=_RESTORE) from error


def _read(path: Path) -> dict[str, object]:
    return checked_file.read_json(path, RunFolderError, _RESTORE)
