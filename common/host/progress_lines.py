"""Progress as lines of a log, where there is no terminal to show a bar on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedsteph.common.host.progress import NamedProgress, Progress

FIRST_SECONDS = 2.0  # quicker work needs no line
_EVERY_SECONDS = 10.0


@contextmanager
def logged(tell: Callable[[str], None]) -> Iterator[NamedProgress]:
    """Tell, in lines, how far the work of the name asked for last is: after 2 s, then every 10 s, and when it is done.

    A thread does so: work that reports no progress is told of as well, and is not slower for it.
    """
    over, step = threading.Event(), _Step(tell)

    def follow() -> None:
        while not over.wait(0.25):
            step.tick()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield step.begin
    finally:
        over.set()
        thread.join()
    step.end()


class _Step:
    """The current work: its name, when it began, and when it was told of."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._name = self._share = ""
        self._began = 0.0
        self._told: float | None = None

    def begin(self, name: str) -> Progress:
        """End the work before, if it is another, and begin this one."""
        if name != self._name:
            self.end()
            with self._lock:
                self._name, self._share, self._began = name, "", time.monotonic()
        return self._report

    def _report(self, done: float, total: float) -> None:
        self._share = f" {100 * done / total:.0f}%" if total else ""

    def tick(self) -> None:
        """Tell of the work if it is time for it."""
        with self._lock:
            now = time.monotonic()
            due = self._began + FIRST_SECONDS if self._told is None else self._told + _EVERY_SECONDS
            if self._name and now >= due:
                self._told = now
                self._tell(f"{self._name} ...{self._share} ({now - self._began:.0f} s)")

    def end(self) -> None:
        """Tell that the work is done, if it was told of before."""
        with self._lock:
            if self._told is not None:
                self._tell(f"{self._name}: done ({time.monotonic() - self._began:.0f} s)")
            self._name, self._told = "", None
