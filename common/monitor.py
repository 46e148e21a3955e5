"""Watch a run from outside: the parties' progress files become bars, or plain lines without a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress as Bars
from rich.progress import TaskID

from common import console
from common.progress import FILE, Progress, read_progress

_POLL_SECONDS = 0.5
_LINE_EVERY_SECONDS = 10.0
_QUIET_SECONDS = 20.0


@contextmanager
def watching(folders: list[Path]) -> Iterator[None]:
    """Show how far the parties in ``folders`` are, for as long as the block runs."""
    tails = [_Tail(folder / FILE) for folder in folders]
    over = threading.Event()
    with console.progress_bars() as bars:
        display = _Display(bars)

        def follow() -> None:
            while True:
                last = over.wait(_POLL_SECONDS)
                for tail in tails:
                    for event in tail.read():
                        display.update(event)
                display.tick()
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
    """New whole lines of a growing file; what an earlier run left in it is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[Progress]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return read_progress((whole + newline).decode())


class _Display:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._printed: dict[tuple[str, str], tuple[float, str]] = {}  # when, and what
        self._waiting = bars.add_task("starting the engine", total=None)
        self._now = "starting"  # the phase that was reported last
        self._since = self._spoke = time.monotonic()

    def tick(self) -> None:
        """Without a terminal, say now and then that a long phase goes on."""
        now = time.monotonic()
        if self._bars.disable and now - self._spoke >= _QUIET_SECONDS:
            self._spoke = now
            console.err.print(f"{self._now} goes on ({now - self._since:.0f} s)", highlight=False)

    def update(self, event: Progress) -> None:
        key = (event.party, event.phase)
        self._bars.update(self._waiting, visible=False)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"{event.party}: {event.phase}", total=event.total)
        self._bars.update(self._tasks[key], completed=event.done, total=event.total)
        if self._now != event.phase:
            self._now, self._since = event.phase, time.monotonic()
        if self._bars.disable:
            self._print(key, event)

    def _print(self, key: tuple[str, str], event: Progress) -> None:
        now, text = time.monotonic(), f"{100 * event.done / event.total:.0f}%"
        before, said = self._printed.get(key, (-_LINE_EVERY_SECONDS, ""))
        if text != said and (event.done >= event.total or now - before >= _LINE_EVERY_SECONDS):
            self._printed[key] = now, text
            self._spoke = now
            console.err.print(f"{event.party}: {event.phase} {text}", highlight=False)
