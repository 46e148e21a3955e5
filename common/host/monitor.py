"""Shows the progress of a run: a live table with one row per party, or plain lines if stderr is not a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedsteph.common.host import console
from fedsteph.common.host.progress_log import FILE, ProgressLine, read_progress

_POLL_SECONDS = 0.5
_LINE_EVERY_SECONDS = 10.0
_QUIET_SECONDS = 20.0


@contextmanager
def watching(folders: list[Path]) -> Iterator[None]:
    """Show the progress of the parties during the block; each writes its progress file into its folder."""
    tails = [_Tail(folder / FILE) for folder in folders]
    over = threading.Event()
    board, lines = Board(), _Lines()
    with Live(board.table(), console=console.err, transient=True, auto_refresh=False) as live:

        def follow() -> None:
            while True:
                last = over.wait(_POLL_SECONDS)
                for tail in tails:
                    for event in tail.read():
                        board.update(event)
                        if not console.err.is_terminal:
                            lines.update(event)
                if console.err.is_terminal:
                    live.update(board.table(), refresh=True)
                else:
                    lines.tick()
                if last:
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class _Tail:
    """Reads the new complete lines of a growing file, and skips those of earlier runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[ProgressLine]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return read_progress((whole + newline).decode())


class Board:
    """Every party's current phase, its progress in that phase, and its last message."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[ProgressLine, float]] = {}  # by party: its last report, and since when its phase

    def update(self, event: ProgressLine) -> None:
        """Record a party's report; a message stays until the next message or the next phase."""
        before, since = self._rows.get(event.party, (None, 0.0))
        if before is None or before.phase != event.phase:
            since = time.monotonic()
        elif not event.message:
            event = replace(event, message=before.message)
        self._rows[event.party] = event, since

    def table(self) -> Table:
        """The current state as a table."""
        table = Table("site", "phase", "progress", "", "s", "last message", box=None, padding=(0, 2, 0, 0))
        if not self._rows:
            table.add_row("-", "starting the engine", "", "", "", "")
        for party, (row, since) in self._rows.items():
            share = row.done / row.total if row.total else 0.0
            table.add_row(
                Text(party),
                Text(row.phase),
                ProgressBar(total=1.0, completed=share, width=24),
                f"{100 * share:.0f}%",
                f"{time.monotonic() - since:.0f}",
                Text(row.message),
            )
        return table


class _Lines:
    """Progress as log lines: every 10 s at most per party and phase, at its end, and a line after 20 s of silence."""

    def __init__(self) -> None:
        self._printed: dict[tuple[str, str], tuple[float, str]] = {}  # (party, phase) -> time and text of the last line
        self._now = "starting"  # the phase that was reported last
        self._said = ""  # who said what last in that phase
        self._since = self._spoke = time.monotonic()

    def tick(self) -> None:
        """Print that the phase goes on, if nothing was printed for 20 s."""
        now = time.monotonic()
        if now - self._spoke >= _QUIET_SECONDS:
            self._spoke = now
            text = f"{self._now} goes on ({now - self._since:.0f} s){self._said}"
            console.tell(text)

    def update(self, event: ProgressLine) -> None:
        """Print a party's progress if it changed: at the end of a phase, else every 10 s at most."""
        if self._now != event.phase:
            self._now, self._since, self._said = event.phase, time.monotonic(), ""
        if event.message:
            self._said = f"; {event.party}: {event.message}"
        key = (event.party, event.phase)
        now, text = time.monotonic(), f"{100 * event.done / event.total:.0f}%"
        before, said = self._printed.get(key, (-_LINE_EVERY_SECONDS, ""))
        if text != said and (event.done >= event.total or now - before >= _LINE_EVERY_SECONDS):
            self._printed[key] = now, text
            self._spoke = now
            message = f" ({event.message})" if event.message else ""
            console.tell(f"{event.party}: {event.phase} {text}{message}")
