"""Ends what takes too long on every system: Windows neither waits for a pipe with a limit nor sends itself alarms."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TICK = 0.1  # seconds; how late it may be


class Watchdog:
    """Calls ``bite`` once, from a thread of its own, if one of many waits takes longer than it may.

    ``has_bitten``: whether that was in the current or last wait.
    """

    def __init__(self, bite: Callable[[], None]) -> None:
        self.has_bitten = False
        self._bite = bite
        self._until = math.inf
        self._off = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """The block may take so many ``seconds``. It costs no thread and no signal, so there can be thousands."""
        self.has_bitten = False
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = math.inf

    def end(self) -> None:
        """Let the thread end."""
        self._off.set()

    def _watch(self) -> None:
        while not self._off.wait(_TICK):
            if time.monotonic() > self._until:
                self.has_bitten = True
                return self._bite()
