"""A pretended GPU: what is copied how and on which stream, what stays there, and when it is let go."""

from __future__ import annotations

import gc
import logging
import re
import threading
from types import SimpleNamespace

import pytest
import torch
from client_builders import CPU, make_cohort
from each_case import each

import fedsteph.client.training.gpu_copy
import fedsteph.client.training.prefetch
import fedsteph.client.training.residency
from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import batches
from fedsteph.client.training.loader import Loader
from fedsteph.client.training.residency import Decision, decide, resident_bags

GPU = torch.device("cuda:0")
GIB = 2**30
RealTensor = torch.Tensor
real_to = torch.Tensor.to


class OnGpu(torch.Tensor):
    """A tensor that says that it is on the GPU; so is all that is made of it."""

    is_cuda = True
    device = GPU


class Pinned(torch.Tensor):
    """A tensor in pinned memory."""


class Gpu:
    """Stands in for ``torch.cuda``, and writes down what is asked of it."""

    def __init__(self, monkeypatch) -> None:
        self.free, self.reserved, self.allocated = 10 * GIB, 0, 0
        self.copies: list[SimpleNamespace] = []
        self.streams: list[str] = []
        self.waited: list[object] = []
        self.recorded: list[tuple[int, str]] = []
        self._local = threading.local()
        monkeypatch.setattr(torch.cuda, "Stream", self._new)
        monkeypatch.setattr(torch.cuda, "stream", self._within)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self._stream("computing"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.free, 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: self.reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.allocated)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Pinned))

        def to(tensor, *args, **options):  # a function, which a class makes a method of
            return self._to(tensor, *args, **options)

        monkeypatch.setattr(torch.Tensor, "to", to)
        recorded = self.recorded
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda tensor, stream: recorded.append((tensor.data_ptr(), stream.name))
        )

    def _new(self, device: torch.device) -> SimpleNamespace:
        self.streams.append(f"side {len(self.streams)}")
        return self._stream(self.streams[-1])

    def _stream(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, record_event=lambda: f"event on {name}", wait_event=self.waited.append)

    def _within(self, stream):
        local = self._local

        class Within:
            def __enter__(self) -> None:
                local.name = stream.name

            def __exit__(self, *_) -> None:
                local.name = "computing"

        return Within()

    def _to(self, tensor, device, **options):
        if isinstance(tensor, OnGpu) or device != GPU:
            return tensor if device == GPU else real_to(tensor, device, **options)
        on = getattr(self._local, "name", "computing")
        self.copies.append(
            SimpleNamespace(
                on=on, pinned=isinstance(tensor, Pinned), bytes=tensor.nbytes, shape=tensor.shape, **options
            )
        )
        return tensor.as_subclass(RealTensor).clone().as_subclass(OnGpu)


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    fedsteph.client.training.gpu_copy._side_stream.cache_clear()
    yield Gpu(monkeypatch)
    fedsteph.client.training.gpu_copy._side_stream.cache_clear()


SIZES = [4, 1, 9, 3, 3, 7, 20, 2]
N_BYTES = sum(SIZES) * 6 * 4


def cohort_of(sizes=SIZES) -> Cohort:
    cohort = make_cohort(sizes)
    return Cohort.of_bags(cohort.patients, list(cohort.bags.values()))


@each(
    ("n_bytes", "free", "expected"),
    [
        (0, 0, Decision(True, "features: 0.0 GiB stay on cuda:0 (0.0 GiB free)")),
        (6 * GIB, 10 * GIB, Decision(True, "features: 6.0 GiB stay on cuda:0 (10.0 GiB free)")),
        (
            6 * GIB + 1,
            10 * GIB,
            Decision(False, "features are streamed to cuda:0: 6.0 GiB is more than 60% of 10.0 GiB free"),
        ),
        (1, 0, Decision(False, "features are streamed to cuda:0: 0.0 GiB is more than 60% of 0.0 GiB free")),
    ],
)
def test_the_decision(n_bytes, free, expected):
    assert decide(n_bytes, free, GPU) == expected


def test_on_the_cpu_nothing_is_decided(gpu, caplog):
    with caplog.at_level(logging.INFO):
        assert resident_bags(cohort_of(), CPU) is None
        list(batches(cohort_of(), range(len(SIZES)), 4, CPU))
    assert not gpu.copies and not gpu.recorded and not gpu.streams and not caplog.records


@pytest.mark.parametrize(("spare", "stays"), [(0, True), (-1, False)])
def test_what_pytorch_holds_unused_counts_as_free(gpu, spare, stays):
    needed = -(-N_BYTES * 10 // 6)
    gpu.free, gpu.reserved, gpu.allocated = 100 + spare, needed, 100
    assert (resident_bags(cohort_of(), GPU) is not None) == stays


def test_the_log_names_neither_patients_nor_paths(gpu, caplog):
    with caplog.at_level(logging.INFO):
        resident_bags(cohort_of(), GPU)
        gpu.free = 0
        resident_bags(cohort_of(), GPU)
    assert [record.levelname for record in caplog.records] == ["INFO"] * 2
    assert {record.name for record in caplog.records} == {"fedsteph.client.training.residency"}
    assert re.fullmatch(r"features: \S+ GiB stay on cuda:0 \(\S+ GiB free\)", caplog.messages[0])
    assert caplog.messages[1].startswith("features are streamed to cuda:0: ")


def test_bags_are_uploaded_once_for_a_cohort_and_its_subsets(gpu, caplog):
    cohort = cohort_of()
    ids = [patient.id for patient in cohort.patients]
    with caplog.at_level(logging.INFO):
        for part in (cohort.subset(ids[:5]), cohort.subset(ids[3:]), cohort, cohort.subset(ids[2:6])):
            held = resident_bags(part, GPU)
    assert [copy.shape for copy in gpu.copies] == [(size, 6) for size in SIZES]
    assert all(
        torch.equal(held[patient.id].as_subclass(RealTensor), cohort.bag(i))
        for i, patient in enumerate(cohort.patients)
    )
    assert len(caplog.records) == 2


def test_what_is_held_for_all_counts_against_what_is_asked_for(gpu):
    """The pretended GPU has N free beside what is held; a second cohort of the same size would need 2 N of 3 N."""
    first, second = cohort_of(), cohort_of()
    gpu.free = 2 * N_BYTES
    assert resident_bags(first, GPU) is not None
    gpu.free = N_BYTES
    assert resident_bags(second, GPU) is None
    gpu.free = 100 * N_BYTES
    assert resident_bags(second, GPU) is None, "the decision stands"
    del first
    gc.collect()
    assert resident_bags(cohort_of(), GPU) is not None


def test_bags_are_released_with_their_cohort(gpu):
    gc.collect()
    before = len(fedsteph.client.training.residency._held)
    cohort = cohort_of()
    part = cohort.subset([cohort.patients[0].id])
    resident_bags(cohort, GPU)
    del cohort
    gc.collect()
    assert len(fedsteph.client.training.residency._held) == before + 1
    del part
    gc.collect()
    assert len(fedsteph.client.training.residency._held) == before


@pytest.mark.parametrize("waiting", [0, 10**9], ids=["in a thread", "at once"])
@pytest.mark.parametrize("resident", [True, False])
def test_stacks_on_a_gpu_are_those_of_the_cpu_and_nobody_waits_for_them(gpu, monkeypatch, resident, waiting):
    monkeypatch.setattr(fedsteph.client.training.prefetch, "WAITING_BYTES", waiting)
    gpu.free = 10 * GIB if resident else 0
    cohort = cohort_of()
    expected = list(batches(cohort, range(len(SIZES)), 4, CPU))
    for (group, found), (same, wanted) in zip(batches(cohort, range(len(SIZES)), 4, GPU), expected, strict=True):
        assert group == same and gpu.waited[-1] == "event on side 0"
        assert not isinstance(found.times, OnGpu) and torch.equal(found.times, wanted.times)  # float64
        for name in ("bags", "mask", "bins", "events"):
            there, here = getattr(found, name), getattr(wanted, name)
            assert (there is None) == (here is None)
            if here is not None:
                assert isinstance(there, OnGpu) and torch.equal(there.as_subclass(RealTensor), here)
                assert (there.data_ptr(), "computing") in gpu.recorded
    assert gpu.streams == ["side 0"]
    assert all(copy.on == "side 0" and copy.pinned and copy.non_blocking for copy in gpu.copies)


def test_resident_bags_are_not_copied_again(gpu):
    cohort = cohort_of()
    resident_bags(cohort, GPU)
    gpu.copies.clear()
    with Loader(cohort, [[0, 1, 2], [6]], 4, GPU, passes=2) as loader:
        for stacks in loader:
            for _ in (1, 2):
                list(stacks())
    assert gpu.copies  # labels and masks
    assert not any(len(copy.shape) == 3 for copy in gpu.copies)


def test_a_gpu_that_another_process_has_filled_meanwhile_is_streamed_to(gpu, caplog, monkeypatch):
    """What is free when it is asked for may be gone when it is used: nothing is kept, and nothing fails."""
    cohort, sent = cohort_of(), fedsteph.client.training.residency.upload

    def upload(tensor, device):
        if tensor is cohort.bag(1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sent(tensor, device)

    monkeypatch.setattr(fedsteph.client.training.residency, "upload", upload)
    with caplog.at_level(logging.INFO):
        assert resident_bags(cohort, GPU) is None
    assert caplog.messages[-1] == "features are streamed to cuda:0 after all: another process has taken its memory"
    monkeypatch.setattr(
        fedsteph.client.training.residency, "upload", lambda tensor, device: pytest.fail("it is decided")
    )
    assert resident_bags(cohort, GPU) is None


def test_bags_are_let_go_when_they_are_released(gpu):
    cohort = cohort_of()
    assert resident_bags(cohort, GPU)
    fedsteph.client.training.residency.release(cohort)
    assert cohort.cache not in fedsteph.client.training.residency._held
    fedsteph.client.training.residency.release(cohort)
