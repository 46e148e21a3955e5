"""Watch a run from outside: the parties' progress files become bars, or plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.progress import TaskID

from common import console
from common.progress import FILE, Progress, read_progress

_POLL_SECONDS = 0.5
_LINE_EVERY_SECONDS = 10.0


class _Tail:
    """New whole lines of a growing file."""

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


def watch(work: Callable[[], None], folders: list[Path]) -> None:
    """Do ``work`` in a thread, and show how far the parties in ``folders`` are until it ends or raises."""
    tails = [_Tail(folder / FILE) for folder in folders]
    raised: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again below, in the caller's thread)
            raised.append(error)

    thread = threading.Thread(target=target, daemon=True)
    with console.progress_bars() as bars:
        tasks: dict[tuple[str, str], TaskID] = {}
        waiting = bars.add_task("starting the engine", total=None)
        printed: dict[tuple[str, str], tuple[float, str]] = {}  # when, and what
        thread.start()
        while True:
            alive = thread.is_alive()
            for event in (event for tail in tails for event in tail.read()):
                key, done = (event.party, event.phase), event.done >= event.total
                bars.update(waiting, visible=False)
                if key not in tasks:
                    tasks[key] = bars.add_task(f"{event.party}: {event.phase}", total=event.total)
                bars.update(tasks[key], completed=event.done, total=event.total)
                now, text = time.monotonic(), f"{100 * event.done / event.total:.0f}%"
                before, said = printed.get(key, (-_LINE_EVERY_SECONDS, ""))
                if bars.disable and text != said and (done or now - before >= _LINE_EVERY_SECONDS):
                    printed[key] = now, text
                    console.err.print(f"{event.party}: {event.phase} {text}", highlight=False)
            if not alive:
                break
            thread.join(_POLL_SECONDS)
    if raised:
        raise raised[0]
