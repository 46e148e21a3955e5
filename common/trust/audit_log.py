"""The audit log: JSON lines in a hash chain, so that an edited, dropped or reordered line is detected.

Every line holds its own hash and that of the previous line. A head file beside the log holds the number of lines and
the last hash, so that a truncated log is detected too. The chain has no secret key: someone who can rewrite both files
can forge the whole history, unless one of its hashes is known elsewhere. So a site's latest hash is written into the
server's audit log with every run, and :func:`verify` can search for such a hash.

Lines have fixed fields, which never hold a path, patient, count or score.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedsteph.common.config.digest import canonical
from fedsteph.common.config.schema import build
from fedsteph.common.errors import AuditError, ConfigError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import writing
from fedsteph.common.host.lock import exclusive

FILE = "audit.jsonl"
HEAD_FILE = "audit.head"
_LABEL = b"fedsteph/v1/audit\n"
_START = "0" * 64
_MAX_LINE = 8192
_REMEDY = "Keep the files as they are for whoever looks into it; compare with a backup, and with hashes noted elsewhere"

Decision = Literal["allowed", "refused", "failed", "noted"]


@dataclass(frozen=True)
class Event:
    """One event of the log.

    ``artefact`` is the SHA-256 of what was sealed, opened or relayed, and ``size`` its size in bytes. ``reason`` is an
    error class or a fixed phrase.
    """

    event: str
    decision: Decision = "noted"
    run: str | None = None
    peer: str | None = None
    artefact: str | None = None
    size: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Line:
    """An event with its number, time (UTC), and the hashes of the chain."""

    number: int
    time: str
    event: Event
    previous: str
    hash: str


@dataclass(frozen=True)
class Verdict:
    """The state of a valid log: number of lines, last hash, and bytes of an incomplete last line after a crash."""

    lines: int
    head: str
    torn_bytes: int


class AuditLog:
    """Appends to the audit log of ``folder``; safe for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / FILE

    def append(self, event: Event) -> str:
        """Append one line and flush it to disk; returns its hash.

        Raises AuditError if the end of the log is invalid (nothing is appended then), or the event is too long.
        """
        with exclusive(self.folder, wait=True):
            found = _last(self.folder)
            self._write_head(found)  # repairs a head file that is one line behind after a crash or a full disk
            if found.torn_bytes:
                self._cut(found)
                found = self._write(found, Event("audit.mended", reason="a line that a crash cut off was removed"))
            return self._write(found, event).head

    @property
    def head(self) -> str:
        """The last line's hash; 64 zeros for an empty log."""
        return _last(self.folder).head

    def _cut(self, found: Verdict) -> None:
        with writing(self._path), self._path.open("r+b") as file:
            file.truncate(self._path.stat().st_size - found.torn_bytes)
            os.fsync(file.fileno())

    def _write(self, before: Verdict, event: Event) -> Verdict:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = Line(before.lines + 1, now, event, before.head, "")
        line = replace(line, hash=_hash(line))
        content = _encode(line) + b"\n"
        if len(content) > _MAX_LINE:
            raise AuditError(f"an event takes more than {_MAX_LINE} bytes", where=self._path)
        with writing(self._path), self._path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        after = Verdict(line.number, line.hash, 0)
        # After the line: a crash between the two leaves the head one line behind, which verify accepts.
        self._write_head(after)
        return after

    def _write_head(self, found: Verdict) -> None:
        # Also before the first line, so that a log without a head file has always been tampered with.
        path, text = self.folder / HEAD_FILE, f"{found.lines} {found.head}\n"
        if not (path.exists() and path.read_text(encoding="utf-8", errors="replace") == text):
            atomic.write_text(path, text)


def verify(folder: Path, expected: str | None = None) -> Verdict:
    """Check every line of a folder's log, and that one has the ``expected`` hash, if known from elsewhere.

    Raises AuditError, with the first such line, if a line or the head file is invalid, or none has the expected hash.
    """
    path = folder / FILE
    lines, torn, seen = 0, 0, expected in (None, _START)
    head = before_last = _START
    for number, raw in enumerate(_raw_lines(path), start=1):
        if not raw.endswith(b"\n") and len(raw) < _MAX_LINE:
            torn = len(raw)
            break
        where = f"{path}, line {number}"
        line = _parse(raw, where)
        if line.number != number or line.previous != head:
            what = "is not the line that followed: lines were dropped, added or reordered"
            raise AuditError(what, where=where, remedy=_REMEDY)
        lines, before_last, head = number, head, line.hash
        seen = seen or line.hash == expected
    _check_head(folder, lines, head, before_last)
    if not seen:
        raise AuditError(f"no line has the hash {expected}: the log was rewritten or cut", where=path, remedy=_REMEDY)
    return Verdict(lines, head, torn)


def read_lines(folder: Path) -> Iterator[Line]:
    """The complete lines of the log; raises AuditError for an invalid one. The chain is not checked."""
    path = folder / FILE
    for number, raw in enumerate(_raw_lines(path), start=1):
        if raw.endswith(b"\n") or len(raw) == _MAX_LINE:
            yield _parse(raw, f"{path}, line {number}")


def _last(folder: Path) -> Verdict:
    """The state of the log from its last line, without reading the whole file."""
    path = folder / FILE
    if not path.exists():
        _check_head(folder, 0, _START, _START)
        return Verdict(0, _START, 0)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _MAX_LINE))
        whole, newline, torn = file.read().rpartition(b"\n")
    if len(torn) >= _MAX_LINE:
        raise AuditError("is too long for a line", where=f"{path}, its end", remedy=_REMEDY)
    if not newline:
        _check_head(folder, 0, _START, _START)
        return Verdict(0, _START, len(torn))
    line = _parse(whole.rpartition(b"\n")[2], f"{path}, its last line")
    _check_head(folder, line.number, line.hash, line.previous)
    return Verdict(line.number, line.hash, len(torn))


def _check_head(folder: Path, lines: int, head: str, before_last: str) -> None:
    path = folder / HEAD_FILE
    if not path.exists():
        if (folder / FILE).exists():
            raise AuditError("is missing", where=path, remedy=_REMEDY)
        return
    words = path.read_text(encoding="ascii", errors="replace").split()
    current, one_behind = [str(lines), head], [str(lines - 1), before_last]
    if words not in (current, one_behind):
        raise AuditError("its last lines were dropped or changed", where=folder / FILE, remedy=_REMEDY)


def _raw_lines(path: Path) -> Iterator[bytes]:
    if not path.exists():
        return
    with path.open("rb") as file:
        while raw := file.readline(_MAX_LINE):
            yield raw


def _parse(raw: bytes, where: str) -> Line:
    try:
        line = build(Line, json.loads(raw), where)
    except (ValueError, RecursionError, ConfigError) as error:
        raise AuditError("is not a line of an audit log", where=where, remedy=_REMEDY) from error
    if _hash(line) != line.hash or _encode(line) != raw.rstrip(b"\n"):
        raise AuditError("was edited: its content does not fit its hash", where=where, remedy=_REMEDY)
    return line


def _hash(line: Line) -> str:
    content = asdict(line)
    del content["hash"]
    return hashlib.sha256(_LABEL + canonical(content)).hexdigest()


def _encode(line: Line) -> bytes:
    return json.dumps(asdict(line), separators=(",", ":")).encode()
