"""Prepares the next items in a background thread during computation, within a limit in bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

WAITING_BYTES = 128 * 2**20  # limit: two large slides with 1536 features

Item = TypeVar("Item")
Made = TypeVar("Made")


class Prefetch(Generic[Item, Made]):
    """Iterates over ``make(item)`` of all items in order, and computes the next results in one thread.

    If all results fit into ``bound`` together, no thread is used: for small results, the exchange between threads costs
    more than it saves. Use it as a context manager: the thread ends when the block is left, after an error, and after
    the last item. An error in ``make`` is raised when its item is requested.

    Args:
        items: all known in advance.
        make: called for one item at a time; must not draw random numbers, which would interfere with the training's.
        n_bytes: the size of an item's result.
        bound: limit in bytes of results prepared ahead; at least one is prepared, whatever its size.
    """

    def __init__(
        self,
        items: Iterable[Item],
        make: Callable[[Item], Made],
        n_bytes: Callable[[Item], int],
        bound: int | None = None,
    ) -> None:
        self.waited = 0.0  # seconds spent waiting for items that were not ready
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
        except BaseException:  # Ctrl-C too: the thread must not outlive its caller
            self.close()
            raise
        finally:
            self.waited += time.perf_counter() - asked

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread after its current item, and discard results that were not requested."""
        self._items.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._begun.clear()

    def _begin(self, thread: ThreadPoolExecutor) -> None:
        # Only the consumer submits items, so no lock is needed, and an abandoned thread soon runs out of work.
        while self._items and (not self._begun or self._items[0][1] <= self._room):
            item, n_bytes = self._items.popleft()
            self._room -= n_bytes
            self._begun.append((thread.submit(self._make, item), n_bytes))
