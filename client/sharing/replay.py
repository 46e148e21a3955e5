"""Replay protection: the current run, a growing send counter, and the last accepted envelope per sender."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ReplayedEnvelopeError, RunFolderError, WrongRunError
from fedsteph.common.host import checked_file

SENT_FILE = "sent.json"
RECEIVED_FILE = "received.json"
RUNS_FILE = "runs.json"
JUMP = 24 * 3600 * 1000  # numbers that a restored site skips: as many as a day has milliseconds
_RESTORE = "Restore it from a backup"
_UNSEEN = "0" * 64  # the digest of no envelope


@dataclass(frozen=True)
class _Last:
    """The last accepted envelope of one sender's keys."""

    sequence: int
    sha256: str


@dataclass(frozen=True)
class Numbers:
    """What replay protection has on the disk."""

    sent: int  # the last number that was given; 0: none
    received: dict[str, int]  # fingerprint of a sender's keys -> the last number that was accepted
    runs: tuple[str, ...]  # that were entered, the current one last

    @classmethod
    def read(cls, state: Path) -> Numbers:
        """Read them from a state folder. Raises RunFolderError if a file is damaged."""
        received = {key: last.sequence for key, last in _received(state).items()}
        current, left = _runs(state)
        return cls(_sent(state), received, (*left, *([] if current is None else [current])))

    def reach(self, others: Numbers) -> bool:
        """Whether these numbers are at least as far as others in everything."""
        received = all(self.received.get(key, 0) >= number for key, number in others.received.items())
        return self.sent >= others.sent and received and set(self.runs) >= set(others.runs)


def jump_ahead(state: Path, senders: Iterable[str]) -> None:
    """After a restore: give no number twice, and accept nothing that was sealed before this moment.

    The next number is :data:`JUMP` above the larger of the last known one and the milliseconds since 1970; so it is
    above all that was given since the backup, even if the clock was wrong by a day.

    Args:
        senders: fingerprints of the keys in the roster.

    Raises:
        RunFolderError: a file is damaged.
    """
    now = time.time_ns() // 1_000_000
    checked_file.write_json(state / SENT_FILE, {"sequence": max(_sent(state), now) + JUMP})
    seen = _received(state)
    for sender in senders:
        if sender not in seen or seen[sender].sequence < now:
            seen[sender] = _Last(now, _UNSEEN)
    _write_received(state, seen)


def enter_run(state: Path, run: str) -> None:
    """Make ``run`` the current run. A run that was left for a newer one cannot be entered again.

    Raises:
        WrongRunError: the run was left before.
        RunFolderError: the file is damaged.
    """
    path = state / RUNS_FILE
    known, left = _runs(state)
    current = run if known is None else known
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
    number = _sent(state)
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
    seen = _received(state)
    new = _Last(sequence, hashlib.sha256(envelope).hexdigest())
    last = seen.get(sender)
    if last == new:
        return
    if last is not None and sequence <= last.sequence:
        remedy = "Ask its sender for a new one"
        raise ReplayedEnvelopeError("is not newer than the last that was accepted", where="envelope", remedy=remedy)
    seen[sender] = new
    _write_received(state, seen)


def _sent(state: Path) -> int:
    path = state / SENT_FILE
    number = (_read(path) if path.exists() else {"sequence": 0}).get("sequence")
    if type(number) is not int:
        raise RunFolderError("is damaged", where=path, remedy="Restore it from a backup, or delete it")
    return number


def _received(state: Path) -> dict[str, _Last]:
    path = state / RECEIVED_FILE
    return {key: _last(value, path) for key, value in (_read(path) if path.exists() else {}).items()}


def _write_received(state: Path, seen: dict[str, _Last]) -> None:
    checked_file.write_json(state / RECEIVED_FILE, {key: asdict(value) for key, value in seen.items()})


def _runs(state: Path) -> tuple[str | None, list[str]]:
    """The current run, None before the first one, and those that were left."""
    path = state / RUNS_FILE
    if not path.exists():
        return None, []
    known = _read(path)
    current, left = known.get("current"), known.get("left")
    if not isinstance(left, list) or not isinstance(current, str):
        raise RunFolderError("is damaged", where=path, remedy=_RESTORE)
    return current, left


def _last(value: object, path: Path) -> _Last:
    try:
        return build(_Last, value, path)
    except ConfigError as error:
        raise RunFolderError("is damaged", where=path, remedy=_RESTORE) from error


def _read(path: Path) -> dict[str, object]:
    return checked_file.read_json(path, RunFolderError, _RESTORE)
