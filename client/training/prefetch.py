"""What is needed next, prepared by one thread while what came before it is computed on, within a number of bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

WAITING_BYTES = 128 * 2**20  # two large slides of 1536 features

Item = TypeVar("Item")
Made = TypeVar("Made")


class Prefetch(Generic[Item, Made]):
    """``make(item)`` of every item in order, each begun before it is asked for.

    Items that fit into ``bound`` all together are made when they are asked for, without a thread: handing over small
    things costs more than it wins. An iterator and a context manager: leaving the block, an error and the last item
    end the thread. What ``make`` raises is raised where its item is asked for.

    Args:
        items: known before the first is asked for.
        make: one item at a time; it must not use random numbers, which are the computing's.
        n_bytes: of what is made of an item.
        bound: bytes that are made or being made before they are asked for; at least one item is, whatever its size.
    """

    def __init__(
        self,
        items: Iterable[Item],
        make: Callable[[Item], Made],
        n_bytes: Callable[[Item], int],
        bound: int | None = None,
    ) -> None:
        self.waited = 0.0
        """Seconds for which items were asked for and not ready."""
        self._items = deque((item, n_bytes(item)) for item in items)
        self._make = make
        self._room = WAITING_BYTES if bound is None else bound
        self._begun: deque[tuple[Future[Made], int]] = deque()
        small = sum(size for _, size in self._items) <= self._room
        self._thread = None if small else ThreadPoolExecutor(1, thread_name_prefix="fedsteph-prefetch")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Made:
        asked = time.perf_counter()
        try:
            if self._thread is None:
                if not self._items:
                    raise StopIteration
                return self._make(self._items.popleft()[0])
            self._begin(self._thread)
            if not self._begun:
                raise StopIteration
            future, n_bytes = self._begun.popleft()
            made = future.result()
            self._room += n_bytes
            self._begin(self._thread)
            return made
        except BaseException:  # Ctrl-C too: nothing goes on behind a caller that is gone
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - asked

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, after the item that it is at, and let go of what nobody has asked for."""
        self._items.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._begun.clear()

    def _begin(self, thread: ThreadPoolExecutor) -> None:
        # Begun by the consumer alone, so that no lock is needed and an abandoned thread soon has nothing to do.
        while self._items and (not self._begun or self._items[0][1] <= self._room):
            item, n_bytes = self._items.popleft()
            self._room -= n_bytes
            self._begun.append((thread.submit(self._make, item), n_bytes))
