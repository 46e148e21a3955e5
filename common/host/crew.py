"""Worker processes that do units of work side by side, and end with the process that began them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from fedsteph.common.errors import EngineError
from fedsteph.common.host.progress import Progress, silent

T = TypeVar("T")
_LISTEN_SECONDS = 0.2
_tell: Callable[[int, float], None] = lambda unit, done: None  # noqa: E731 (a worker's own, once it has begun)
_unfit: Exception | None = None  # what went wrong as this worker began


class Crew:
    """Worker processes. They start when they are first needed, and end with the block, or with this process.

    Args:
        workers: how many.
        begin: called in each worker before its first unit, with ``ground``; both must be picklable.
        where, remedy: for the error if a worker is killed.
    """

    def __init__(self, workers: int, begin: Callable[[Any], None], ground: object, *, where: Path, remedy: str) -> None:
        self._workers, self._where, self._remedy = workers, where, remedy
        self._begun = 0
        context = multiprocessing.get_context("spawn")  # a forked torch with threads can hang
        self._heard, tell = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(workers, context, _begin, (begin, ground, tell, context.Lock()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        workers = list((self._pool._processes or {}).values())
        if error is not None:
            for process in workers:  # what they do is of no use any more
                process.terminate()
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def each(
        self,
        do: Callable[[Any, Progress], T],
        units: Sequence[Any],
        sizes: Sequence[float] | None = None,
        progress: Progress = silent,
        on_begun: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, T]]:
        """Do all units in any order; yields the number and the result of each as it is done.

        Args:
            do: a picklable function of a unit and of its own progress.
            sizes: of the units, in which ``progress`` counts; None: all alike.
            on_begun: called once, when all workers have begun.

        Raises:
            EngineError: a worker was killed, perhaps for memory.
            Exception: what ``do`` raised.
        """
        with _without_main():
            left: dict[Future[T], int] = {self._pool.submit(_do, do, i, unit): i for i, unit in enumerate(units)}
        done, sizes = [0.0] * len(units), sizes or [1.0] * len(units)
        while left:
            finished, _ = wait(left, timeout=_LISTEN_SECONDS, return_when=FIRST_COMPLETED)
            self._listen(done, on_begun)
            for future in finished:
                i = left.pop(future)
                done[i] = 1.0
                yield i, self._result(future)
            progress(sum(share * size for share, size in zip(done, sizes, strict=True)), sum(sizes) or 1.0)

    def _listen(self, done: list[float], on_begun: Callable[[], None]) -> None:
        while self._heard.poll():
            i, share = self._heard.recv()
            if i >= 0:
                done[i] = max(done[i], share)
                continue
            self._begun += 1
            if self._begun == self._workers:
                on_begun()

    def _result(self, future: Future[T]) -> T:
        try:
            return future.result()
        except BrokenProcessPool as error:
            what = "a worker process was killed, perhaps because memory ran out"
            raise EngineError(what, where=self._where, remedy=self._remedy) from error


def n_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import this one's main program again: it may be Flower's or Ray's."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(begin: Callable[[Any], None], ground: object, tell: Connection, lock: Lock) -> None:
    global _tell, _unfit  # noqa: PLW0603 (a worker process is one worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def say(unit: int, share: float) -> None:
        with lock:
            tell.send((unit, share))

    _tell = say
    try:
        begin(ground)
    except Exception as error:  # noqa: BLE001 (each unit raises it, so that it comes back with its type)
        _unfit = error
    say(-1, 0.0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # nobody needs the result


def _do(do: Callable[[Any, Progress], T], i: int, unit: object) -> T:
    if _unfit is not None:
        raise _unfit
    return do(unit, lambda done, total: _tell(i, done / total))
