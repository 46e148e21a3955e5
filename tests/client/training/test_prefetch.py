"""What is prepared ahead: the same things in the same order, within its bytes, and no thread afterwards."""

from __future__ import annotations

import threading

import pytest
import torch
from client_builders import prefetching
from each_case import each

from fedsteph.client.training.prefetch import Prefetch
from fedsteph.common.errors import FeatureFileError


class Maker:
    """Counts what is made and not yet taken, and lets a test wait until so many are."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.by: set[str] = set()
        self._changed = threading.Condition()

    def __call__(self, item: int) -> int:
        with self._changed:
            self.made.append(item)
            self.by.add(threading.current_thread().name)
            self._changed.notify_all()
        return item * item

    def wait_for(self, n: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.made) >= n, timeout=60)


@each("bound", [0, 1, 3, 100, 10_000])
def test_everything_in_order(bound):
    with Prefetch(range(40), lambda i: i * i, lambda i: i + 1, bound) as ahead:
        assert list(ahead) == [i * i for i in range(40)]
        assert prefetching() == []  # even before the end of the block


def test_no_more_is_begun_than_the_bound_allows():
    """Of items of 10 bytes and a bound of 35, three wait beside the one that was taken last."""
    make = Maker()
    with Prefetch(range(20), make, lambda i: 10, bound=35) as ahead:
        assert make.made == []
        for taken in range(1, 21):
            next(ahead)
            make.wait_for(min(20, taken + 3))
            assert len(ahead._begun) == min(20 - taken, 3) and len(make.made) == min(20, taken + 3)
    assert make.made == list(range(20))


def test_one_item_is_begun_whatever_its_size():
    make = Maker()
    with Prefetch([1, 2, 3], make, lambda i: 1000, bound=1) as ahead:
        for taken in (1, 2, 3):
            assert next(ahead) == taken**2
            make.wait_for(min(3, taken + 1))
            assert len(make.made) == min(3, taken + 1)


def test_what_fits_together_needs_no_thread():
    make = Maker()
    ahead = Prefetch(range(10), make, lambda i: 10, bound=100)
    assert next(ahead) == 0 and make.made == [0] and list(ahead) == [i * i for i in range(1, 10)]
    assert make.by == {threading.current_thread().name}


@each("bound", [0, 2, 100])
def test_an_error_is_raised_where_its_item_is_asked_for(bound):
    def make(i: int) -> int:
        if i == 3:
            raise FeatureFileError("is damaged")
        return i

    ahead, seen = Prefetch(range(9), make, lambda i: 1, bound), []
    with pytest.raises(FeatureFileError, match="is damaged"):
        for i in ahead:
            seen.append(i)
    assert seen == [0, 1, 2] and prefetching() == [] and list(ahead) == []


@each("error", [RuntimeError, KeyboardInterrupt])
def test_leaving_early_ends_the_thread(error):
    make = Maker()
    with pytest.raises(error), Prefetch(range(1000), make, lambda i: 1, bound=5) as ahead:
        next(ahead)
        assert len(prefetching()) == 1
        raise error
    assert prefetching() == [] and len(make.made) <= 6


def test_an_interrupt_while_waiting_ends_the_thread(monkeypatch):
    ahead = Prefetch(range(10), lambda i: i, lambda i: 1, bound=2)
    next(ahead)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ahead._begun[0][0], "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(ahead)


def test_closing_waits_for_the_item_at_hand_and_drops_the_rest():
    started, go, made = threading.Event(), threading.Event(), []

    def make(i: int) -> int:
        if i == 1:
            started.set()
            assert go.wait(60)
        made.append(i)
        return i

    ahead = Prefetch(range(10), make, lambda i: 1, bound=4)
    next(ahead)
    assert started.wait(60)
    closing = threading.Thread(target=ahead.close)
    closing.start()
    go.set()
    closing.join(60)
    assert not closing.is_alive() and made[:2] == [0, 1] and prefetching() == []


def test_one_that_is_dropped_unclosed_leaves_no_thread():
    ahead = Prefetch(range(10), lambda i: i, lambda i: 1, bound=2)
    next(ahead)
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("fedsteph"))
    del ahead
    thread.join(60)


def test_waiting_is_counted(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("fedsteph.client.training.prefetch.time.perf_counter", lambda: next(clock))
    ahead = Prefetch(range(3), lambda i: i, lambda i: 1, bound=10)
    next(ahead)
    next(ahead)
    assert ahead.waited == 2


def test_random_numbers_are_not_touched():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with Prefetch(range(5), lambda i: torch.zeros(4), lambda i: 16, bound=16) as ahead:
        list(ahead)
    assert torch.equal(torch.get_rng_state(), state)
