"""Writes progress as JSON lines to a file, so that another process can show it under any engine."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedsteph.common.host.disk import writing

FILE = "progress.jsonl"
_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class ProgressLine:
    """One party's progress in one phase: ``done`` of ``total`` units of work."""

    party: str
    phase: str
    done: float
    total: float
    message: str = ""


class ProgressLog:
    """Appends :class:`ProgressLine` lines: the first and last of a phase, and at most two per second between them."""

    def __init__(self, folder: Path, party: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._party = party
        self._written = 0.0
        self._phase = ""

    def report(self, phase: str, done: float, total: float, message: str = "", party: str | None = None) -> None:
        """Report ``done`` of ``total`` units of a phase, and a few words; ``party`` None: the owner of the log."""
        now = time.monotonic()
        if phase == self._phase and 0 < done < total and now - self._written < _EVERY_SECONDS:
            return
        self._written, self._phase = now, phase
        line = json.dumps(asdict(ProgressLine(party or self._party, phase, round(done, 3), total, message)))
        with writing(self._path), self._path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                _write_whole(file, f"{line}\n".encode())
            except OSError:
                file.truncate(before)  # a part of a line would spoil the next one
                raise


def _write_whole(file: io.RawIOBase, content: bytes) -> None:
    while content:
        content = content[file.write(content) or 0 :]


def read_progress(text: str) -> list[ProgressLine]:
    """Parse the complete lines of ``text``; an unfinished last line is ignored."""
    whole, _, _ = text.rpartition("\n")
    return [ProgressLine(**json.loads(line)) for line in whole.splitlines() if line]
