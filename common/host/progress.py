"""Progress as JSON lines in a file, so that whoever owns the folder can watch any process, in any engine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "progress.jsonl"
_EVERY_SECONDS = 0.5


@dataclass(frozen=True)
class Progress:
    """How far one party is in one phase, in its own units of work."""

    party: str
    phase: str
    done: float
    total: float
    message: str = ""


class ProgressLog:
    """Appends :class:`Progress` lines, at most two per second but always the first and last of a phase."""

    def __init__(self, folder: Path, party: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._party = party
        self._written = 0.0
        self._phase = ""

    def report(self, phase: str, done: float, total: float, message: str = "", party: str | None = None) -> None:
        """Say that ``done`` of ``total`` units of a phase are behind us.

        Args:
            message: what else a watcher may want to know, in a few words.
            party: whose progress it is, as far as this party knows; None: its own.
        """
        now = time.monotonic()
        if phase == self._phase and 0 < done < total and now - self._written < _EVERY_SECONDS:
            return
        self._written, self._phase = now, phase
        line = json.dumps(asdict(Progress(party or self._party, phase, round(done, 3), total, message)))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_progress(text: str) -> list[Progress]:
    """Parse whole lines; a line that is still being written is left for later."""
    whole, _, _ = text.rpartition("\n")
    return [Progress(**json.loads(line)) for line in whole.splitlines() if line]
