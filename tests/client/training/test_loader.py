"""An epoch's stacks against those that are made one by one: the same, whatever is prepared ahead or kept."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from client_builders import CPU, SMALL, MemoryCohort, equal, make_cohort, prefetching, state_of
from killed_training import SIZES, train

import fedsteph.client.training.batch
import fedsteph.client.training.loader
import fedsteph.client.training.prefetch
from fedsteph.client.training.batch import batches, groups_of, predict_hazards, stack_bytes
from fedsteph.client.training.loader import Loader
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.errors import FeatureFileError
from fedsteph.common.model.initial_model import untrained_model

STEPS = [[3, 0, 7], [1, 2, 5, 4], [6]]


@pytest.fixture
def ahead(monkeypatch):
    """Set the bytes that may wait and those that are kept; ``ahead(0, 0)`` prepares one stack ahead and keeps none."""

    def bounds(waiting: int, kept: int) -> None:
        monkeypatch.setattr(fedsteph.client.training.prefetch, "WAITING_BYTES", waiting)
        monkeypatch.setattr(fedsteph.client.training.loader, "KEPT_BYTES", kept)

    return bounds


class Reading(MemoryCohort):
    """Reads a bag anew each time, and knows which were read, by whom, and how many bytes of them are still there."""

    def __init__(self, sizes: list[int]) -> None:
        cohort = make_cohort(sizes)
        super().__init__(cohort.patients, cohort.bags)
        self.read: list[int] = []
        self.by: set[str] = set()
        self.alive = self.most = 0
        self.damaged: int | None = None

    def n_instances(self, i: int) -> int:
        return len(self.bags[self.patients[i].id])

    def bag(self, i: int) -> torch.Tensor:
        if i == self.damaged:
            raise FeatureFileError("is damaged")
        bag = super().bag(i).clone()
        self.read.append(i)
        self.by.add(threading.current_thread().name)
        self.alive += bag.nbytes
        self.most = max(self.most, self.alive)
        weakref.finalize(bag.untyped_storage(), self._let_go, bag.nbytes)
        return bag

    def _let_go(self, n_bytes: int) -> None:
        self.alive -= n_bytes


def same(found, expected) -> bool:
    tensors = ("bags", "mask", "times", "bins", "events")
    pairs = [(getattr(found, name), getattr(expected, name)) for name in tensors]
    return found.ids == expected.ids and all(a is b or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize(("waiting", "kept"), [(0, 0), (10**9, 10**9), (100, 300), (500, 100)])
def test_every_pass_has_the_stacks_of_its_step(ahead, waiting, kept, passes):
    ahead(waiting, kept)
    cohort = make_cohort([4, 1, 9, 3, 3, 7, 20, 2])
    with Loader(cohort, STEPS, 4, CPU, passes=passes) as loader:
        for step, stacks in zip(STEPS, loader, strict=True):
            for _ in range(passes):
                expected = list(batches(cohort, step, 4, CPU))
                found = list(stacks())
                assert [group for group, _ in found] == [group for group, _ in expected]
                assert all(same(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))


def test_what_fits_is_kept_for_the_second_pass_and_the_rest_is_read_again(ahead):
    cohort = Reading([10, 30, 80, 5])
    sizes = [stack_bytes(cohort, group) for group in groups_of(cohort, [0, 1, 2])]
    assert len(sizes) == 3
    ahead(0, sizes[0] + sizes[1])
    with Loader(cohort, [[0, 1, 2], [3]], 4, CPU, passes=2) as loader:
        steps = iter(loader)
        stacks = next(steps)
        first = [batch for _, batch in stacks()]
        second = [batch for _, batch in stacks()]
        assert [a is b for a, b in zip(first, second, strict=True)] == [True, True, False]
        assert torch.equal(first[2].bags, second[2].bags)
        assert [[group for group, _ in stacks()] for stacks in steps] == [[[3]]]
    assert cohort.read == [0, 1, 2, 2, 3]


def test_preparing_goes_on_across_steps(ahead):
    ahead(0, 0)
    cohort = Reading([4, 4])
    third = threading.Event()
    read = cohort.bag

    def bag(i):
        if i == 1:
            third.set()
        return read(i)

    cohort.bag = bag
    with Loader(cohort, [[0], [1]], 4, CPU) as loader:
        list(next(iter(loader))())
        assert third.wait(60)  # the second step's bag, which nobody has asked for


def test_memory_does_not_grow_with_the_epoch(ahead):
    """What waits, the stack at hand and the one before it, which its user holds until it has the next."""
    one = 30 * 6 * 4
    for n in (12, 48):
        ahead(3 * one, 0)
        cohort = Reading([30] * n)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fedsteph.client.training.batch, "_BAGS_PER_PASS", 1)
            with Loader(cohort, [list(range(n))], 4, CPU) as loader:
                for stacks in loader:
                    for _ in stacks():
                        gc.collect(0)
        assert cohort.read == list(range(n)) and 2 * one <= cohort.most <= 5 * one
        assert cohort.by != {threading.current_thread().name}


@pytest.mark.parametrize("waiting", [0, 100, 10**9])
def test_an_error_of_a_file_keeps_its_type(ahead, waiting):
    ahead(waiting, 0)
    cohort = Reading([4, 9, 30, 70])
    cohort.damaged = 2
    with pytest.raises(FeatureFileError, match="is damaged"):
        predict_hazards(untrained_model(SMALL, 0), cohort, CPU)
    with pytest.raises(FeatureFileError, match="is damaged"):
        train(None, cohort=cohort)


def test_a_training_that_is_stopped_ends_the_thread(ahead):
    ahead(0, 0)

    def stop(call: int) -> None:
        assert len(prefetching()) == 1
        if call == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(None, stop)
    assert prefetching() == []


def test_a_loop_that_is_left_ends_the_thread(ahead):
    ahead(0, 0)
    for _ in batches(make_cohort([4, 9, 30, 70]), range(4), 4, CPU):
        assert len(prefetching()) == 1
        break
    assert prefetching() == []


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_a_training_is_the_same_bit_for_bit(ahead, loss):
    """All at once without a thread; one stack ahead and none kept; some of each."""
    found = []
    for waiting, kept in [(10**9, 10**9), (0, 0), (0, 10**9), (100, 100)]:
        ahead(waiting, kept)
        cohort = Reading(SIZES)
        found.append(state_of(train(None, cohort=cohort, config=TrainingConfig(epochs=3, batch_bags=4, loss=loss))))
        assert (cohort.by == {threading.current_thread().name}) == (waiting == 10**9)
    assert all(equal(state, found[0]) for state in found[1:])


def test_the_waiting_share(ahead, monkeypatch):
    clock = iter([0.0, 10.0, 11.0, 20.0])  # start; asked for the only stack; had it; now
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with Loader(make_cohort([4]), [[0]], 4, CPU) as loader:
        (stacks,) = loader
        next(iter(stacks()))
        assert loader.waiting_share == pytest.approx(1 / 20)
