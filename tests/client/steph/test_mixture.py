"""The merge against paper eq. 3-5 written as loops over parameters, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from client_builders import CPU, SMALL
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory

from fedsteph.client.steph.mixture import Mixture, coefficients, top_k
from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.vector.task_vector import TaskVector

TINY = Architecture(width=3, embed=2, attention=2, n_bins=2)
N_BAGS = 4


def vectors(n: int, architecture: Architecture = TINY) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(n)
    shapes = architecture.encoder_shapes.items()
    return [
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes} for _ in range(n)
    ]


def mixture_of(theta_0, rows) -> Mixture:
    def flat(tensors):
        return torch.cat([tensors[name].flatten() for name in TINY.encoder_shapes])

    return Mixture(TINY, flat(theta_0), torch.stack([flat(row) for row in rows]))


def plain_merge(theta_0, target, sources, w, lam, kept):
    """theta = theta_0 + sum over kept k of w_k [lam_k tau_t + (1 - lam_k) tau_k], one tensor after the other."""
    merged = []
    for b in range(len(w)):
        theta = {}
        for name, start in theta_0.items():
            total = start
            for k in kept[b]:
                mixed = lam[b, k] * target[name] + (1 - lam[b, k]) * sources[k][name]
                total = total + w[b, k] * mixed
            theta[name] = total
        merged.append(theta)
    return merged


def largest(w: list[float], K: int | None) -> list[int]:
    return sorted(range(len(w)), key=lambda k: (-w[k], k))[:K]


def random_routing(n_sources: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(N_BAGS, n_sources, generator=generator, dtype=torch.float64).relu()
    lam = torch.rand(N_BAGS, n_sources, generator=generator, dtype=torch.float64)
    return w.requires_grad_(), lam.requires_grad_()


@each(("n_sources", "K"), [(6, 2), (6, None), (6, 6), (3, 5), (1, 5), (1, None), (100, 5), (100, 1)])
def test_merge_and_its_gradient_equal_the_papers_equations(n_sources, K):
    theta_0, target, *sources = vectors(2 + n_sources)
    w, lam = random_routing(n_sources)
    kept = top_k(w, K)
    plain_kept = [largest(row, K) for row in w.tolist()]
    assert kept.tolist() == plain_kept
    merged = mixture_of(theta_0, [target, *sources]).merge(coefficients(w, lam, kept))
    expected = plain_merge(theta_0, target, sources, w, lam, plain_kept)
    weigh = vectors(N_BAGS)
    found = sum((merged[name][b] * weigh[b][name]).sum() for b in range(N_BAGS) for name in theta_0)
    plain = sum((expected[b][name] * weigh[b][name]).sum() for b in range(N_BAGS) for name in theta_0)
    for name, shape in TINY.encoder_shapes.items():
        assert merged[name].shape == (N_BAGS, *shape)
        for b in range(N_BAGS):
            torch.testing.assert_close(merged[name][b], expected[b][name], rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found, [w, lam]), torch.autograd.grad(plain, [w, lam], materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        outside = torch.ones_like(ours).scatter(1, kept, 0.0)
        assert not (ours * outside).any(), "a gradient reached a source that was not kept"


def test_coefficients_by_hand():
    w = torch.tensor([[0.5, 2.0, 1.0]])
    lam = torch.tensor([[0.1, 0.25, 0.5]])
    found = coefficients(w, lam, torch.tensor([[1, 2]]))
    assert found.tolist() == [[2 * 0.25 + 1 * 0.5, 0.0, 2 * 0.75, 1 * 0.5]]


@each(
    ("w", "K", "kept"),
    [
        ([0.0, 0.0, 0.0, 0.0], 2, [0, 1]),
        ([0.0, 1.0, 0.0, 1.0], 3, [1, 3, 0]),
        ([3.0, 3.0, 3.0], None, [0, 1, 2]),
        ([0.0, 0.0, 5.0], 5, [2, 0, 1]),
        ([1.0], 1, [0]),
    ],
)
def test_ties_go_to_the_lowest_index(w, K, kept):
    assert top_k(torch.tensor([w]), K).tolist() == [kept]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0]), min_size=1, max_size=120), st.none() | st.integers(1, 130))
def test_top_k_is_a_stable_sort(w, K):
    assert top_k(torch.tensor([w, w]), K).tolist() == [largest(w, K)] * 2


def graph_size(output: torch.Tensor) -> int:
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_no_loop_over_sources():
    sizes = set()
    for n_sources in (2, 100):
        theta_0, *rows = vectors(2 + n_sources)
        w, lam = random_routing(n_sources)
        merged = mixture_of(theta_0, rows).merge(coefficients(w, lam, top_k(w, None)))
        sizes.add(graph_size(sum(tensor.sum() for tensor in merged.values())))
    assert len(sizes) == 1


LENGTH = sum(math.prod(shape) for shape in TINY.encoder_shapes.values())


class Recorded(Sequence):
    """Rows that tell which of them were asked for; the others need not exist."""

    def __init__(self, rows: Sequence[torch.Tensor]) -> None:
        self.rows, self.read = rows, []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int) -> torch.Tensor:
        self.read.append(k)
        return self.rows[k]


def mapped_rows(path: Path, n: int, length: int = LENGTH) -> list[torch.Tensor]:
    """Rows that are files mapped into memory, as many as there are sources and one."""
    generator = torch.Generator().manual_seed(n)
    for k in range(n):
        (path / str(k)).write_bytes(torch.randn(length, generator=generator).numpy().tobytes())
    return [torch.from_file(str(path / str(k)), shared=False, size=length) for k in range(n)]


def flattened(merged: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([merged[name].flatten(1) for name in TINY.encoder_shapes], dim=1)


def used_rows(kept: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(kept + 1, (1, 0))


@pytest.mark.parametrize("kind", ["one tensor", "tuple", "mapped", "recorded"])
@pytest.mark.parametrize("used", [[[0, 2, 5], [0, 1, 2], [5, 0, 3], [0, 4, 1]], [[3], [0], [0], [5]], None])
def test_the_used_rows_alone_are_merged_and_have_a_gradient(tmp_path, kind, used):
    """Held against one dense product with a matrix that is 0 where a bag uses nothing."""
    rows = mapped_rows(tmp_path, 6)
    kinds = {"one tensor": torch.stack(rows), "tuple": tuple(torch.stack(rows)), "recorded": Recorded(rows)}
    theta_0 = torch.randn(LENGTH, generator=torch.Generator().manual_seed(1))
    mixture = Mixture(TINY, theta_0, kinds.get(kind, rows))
    c = torch.randn(N_BAGS, 6, generator=torch.Generator().manual_seed(2)).requires_grad_()
    every = [list(range(6))] * N_BAGS if used is None else used
    mask = torch.stack([torch.zeros(6).index_fill(0, torch.tensor(which), 1.0) for which in every])
    merged = flattened(mixture.merge(c, None if used is None else torch.tensor(used)))
    expected = theta_0.double() + (c * mask).double() @ torch.stack(rows).double()
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-6)
    weigh = torch.randn(N_BAGS, LENGTH, generator=torch.Generator().manual_seed(3))
    (found,) = torch.autograd.grad((merged * weigh).sum(), c, retain_graph=True)
    (dense,) = torch.autograd.grad((expected * weigh).sum(), c)
    torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-5)
    assert not found[mask == 0].any() and bool(found[mask == 1].all())
    (again,) = torch.autograd.grad((merged * weigh).sum(), c)
    assert torch.equal(again, found)


def test_merge_passes_the_slope_of_its_value():
    theta_0, *rows = vectors(6)
    used = torch.tensor([[0, 3], [4, 2]])
    c = torch.randn(2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: flattened(mixture_of(theta_0, rows).merge(c, used)), (c,))


def test_of_a_thousand_vectors_those_with_a_weight_are_read(tmp_path):
    """K + 1 of them per bag, in the forward pass and again in the backward pass; none is copied, none is changed."""
    n, K, wide = 1000, 5, Architecture(width=40, embed=20, attention=10, n_bins=2)
    length = sum(math.prod(shape) for shape in wide.encoder_shapes.values())
    (mapped,) = mapped_rows(tmp_path, 1, (1 + n) * length)
    rows, before = Recorded(mapped.view(1 + n, length).unbind()), mapped.clone()
    mixture = Mixture(wide, torch.zeros(length), rows)
    w, lam = (tensor.detach().float().requires_grad_() for tensor in random_routing(n))
    kept = top_k(w, K)
    wanted = [[0, *(1 + k for k in largest(row, K))] for row in w.tolist()]
    assert mixture.n_sources == n
    with LiveMemory() as memory:
        merged = mixture.merge(coefficients(w, lam, kept), used_rows(kept))
        assert rows.read == [k for which in wanted for k in which]
        rows.read.clear()
        sum(tensor.square().sum() for tensor in merged.values()).backward()
    assert rows.read == [k for which in wanted for k in which]
    assert memory.peak < n * length, "bytes: a copy of all rows would be four times that"
    assert torch.equal(mapped, before) and w.grad.count_nonzero(dim=1).tolist() == [K] * N_BAGS


def test_no_gradient_of_a_row_or_of_m0():
    theta_0, rows = torch.zeros(LENGTH, requires_grad=True), torch.randn(3, LENGTH, requires_grad=True)
    c = torch.ones(1, 3, requires_grad=True)
    merged = flattened(Mixture(TINY, theta_0, rows).merge(c, torch.tensor([[0, 1]])))
    found = torch.autograd.grad(merged.sum(), (c, theta_0, rows), allow_unused=True)
    assert found[1:] == (None, None)
    assert found[0][0].tolist() == pytest.approx([float(rows[0].detach().sum()), float(rows[1].detach().sum()), 0.0])
    assert torch.equal(theta_0.detach(), torch.zeros(LENGTH)), "the merge was written into M0"


def test_a_device_where_it_is_already_moves_nothing(tmp_path):
    rows = Recorded(mapped_rows(tmp_path, 3))
    mixture = Mixture(TINY, torch.zeros(LENGTH), rows)
    assert mixture.to(CPU) is mixture and rows.read == []


def test_the_stack_of_one_tensor_is_that_tensor(tmp_path):
    rows = mapped_rows(tmp_path, 3)
    one = torch.stack(rows)
    assert Mixture(TINY, torch.zeros(LENGTH), one).stack is one
    assert torch.equal(Mixture(TINY, torch.zeros(LENGTH), rows).stack, one)


def task_vector(scale: float, architecture: Architecture = SMALL, m0: str = "0" * 64) -> TaskVector:
    shapes = architecture.encoder_shapes.items()
    return TaskVector(architecture, m0, {name: torch.full(shape, scale) for name, shape in shapes})


def random_vector(seed: int, scale: float) -> TaskVector:
    noise, shapes = torch.Generator().manual_seed(seed), SMALL.encoder_shapes.items()
    return TaskVector(SMALL, "0" * 64, {name: scale * torch.randn(shape, generator=noise) for name, shape in shapes})


def test_the_stack_is_the_target_and_then_the_sources():
    m0 = untrained_model(SMALL, 0)
    mixture = Mixture.of(m0, task_vector(1.0), [task_vector(2.0), task_vector(3.0)])
    assert mixture.n_sources == 2 and [row.unique().tolist() for row in mixture.stack] == [[1.0], [2.0], [3.0]]
    alone = mixture.merge(torch.zeros(1, 3))
    for name, tensor in m0.encoder_state().items():
        assert torch.equal(alone[name][0], tensor)
    assert not mixture.theta_0.requires_grad


def test_normalised_sources_are_as_long_as_the_target_and_point_where_they_did():
    m0, (target, *sources) = (
        untrained_model(SMALL, 0),
        [random_vector(seed, scale) for seed, scale in enumerate((2, 9, 0.01))],
    )
    plain, normalised = (Mixture.of(m0, target, sources, normalise=n).stack.double() for n in (False, True))
    assert torch.equal(normalised[0], plain[0])
    length = plain[0].square().sum().sqrt()
    for found, before in zip(normalised[1:], plain[1:], strict=True):
        torch.testing.assert_close(found, before * length / before.square().sum().sqrt(), rtol=1e-5, atol=1e-7)
    assert float(plain[1].norm() / length) > 3 and float(plain[2].norm() / length) < 0.1, "nothing to normalise"


def test_a_source_without_length_stays_as_it_is():
    stack = Mixture.of(untrained_model(SMALL, 0), task_vector(1.0), [task_vector(0.0)], normalise=True).stack
    assert [row.unique().tolist() for row in stack] == [[1.0], [0.0]]


@each("sources", [[], [task_vector(1.0, m0="1" * 64)], [task_vector(1.0), task_vector(1.0, TINY)]])
def test_unlike_vectors_are_not_stacked(sources):
    with pytest.raises(VectorMismatchError):
        Mixture.of(untrained_model(SMALL, 0), task_vector(1.0), sources)
