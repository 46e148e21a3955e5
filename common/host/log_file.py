"""A log file that is rotated by size and by time, as text or as JSON lines with a fixed set of fields."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from fedsteph.common.host.lock import exclusive

LogFormat = Literal["text", "json"]
MOST_BYTES = 10 * 2**20  # of a file
KEPT = 52  # rotated files, NAME.1 being the newest: a year at one a week


class _JsonLine(logging.Formatter):
    """A record as one line of JSON. It has these five fields alone, whatever else a record carries."""

    def format(self, record: logging.LogRecord) -> str:
        run = getattr(record, "run", None)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "module": record.module,
            "message": super().format(record),  # with the traceback of a failure
            "run": run if isinstance(run, str) else None,
        }
        return json.dumps(line)


class LogFile(RotatingFileHandler):
    """Appends records to a file, and begins a new one at 10 MiB and in every new week.

    Several processes may write to one file: each follows when another one has rotated it.
    """

    def __init__(self, path: Path, form: LogFormat) -> None:
        super().__init__(path, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)
        self._folder = path.parent / f".{path.name}.rotation"
        text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
        self.setFormatter(_JsonLine() if form == "json" else text)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._follow()
            super().emit(record)
        except OSError:
            self.handleError(record)

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 (logging's name)
        return bool(super().shouldRollover(record)) or self._is_of_an_earlier_week()

    def doRollover(self) -> None:  # noqa: N802 (logging's name)
        # A record that cannot begin a new file belongs into the old one.
        with contextlib.suppress(OSError), exclusive(self._folder, wait=True):
            if not self._follow():
                super().doRollover()

    def _is_of_an_earlier_week(self) -> bool:
        path = Path(self.baseFilename)
        if not path.is_file() or path.stat().st_size == 0:
            return False
        return _week(datetime.fromtimestamp(path.stat().st_mtime, UTC)) < _week(datetime.now(UTC))

    def _follow(self) -> bool:
        """Let go of a file that is no longer the one of this name; whether it was another."""
        if self.stream is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.stream.fileno()), Path(self.baseFilename).stat()):
                return False
        self.stream.close()
        self.stream = None  # as logging's own handlers do
        return True


def _week(time: datetime) -> tuple[int, int]:
    return time.isocalendar()[:2]
