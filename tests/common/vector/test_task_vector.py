"""Task vector arithmetic against numpy, and vectors that must not meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from each_case import each

from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector, flatten, mean

SMALL = Architecture(width=5, embed=4, attention=3, n_bins=6)
M0 = untrained_model(SMALL, 0)
MODELS = [untrained_model(SMALL, seed) for seed in (1, 2, 3)]
A, B, C = (TaskVector.between(model, M0) for model in MODELS)
WITH_HEAD = [TaskVector.between(model, M0, head=True) for model in MODELS]


def row(model: BaseModel) -> np.ndarray:
    """All encoder values of a model, straight from its state."""
    return np.concatenate([model.state_dict()[name].numpy().ravel() for name in SMALL.encoder_shapes])


a, b, c = (row(model) - row(M0) for model in MODELS)


@each(
    ("found", "expected"),
    [
        (A, a),
        (A + B, a + b),
        (A - B, a - b),
        (2.5 * A, 2.5 * a),
        (A * -0.5, -0.5 * a),
        (mean([A]), a),
        (mean([A, B, C]), (a + b + c) / 3),
    ],
)
def test_arithmetic(found: TaskVector, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.flat(), expected, rtol=1e-5, atol=1e-7)
    assert found.norm == pytest.approx(float(np.linalg.norm(expected.astype(np.float64))), rel=1e-6)
    assert (found.architecture, found.m0_sha256) == (SMALL, model_digest(M0))


def test_the_norm_is_summed_in_float64() -> None:
    """The square of 1e30 is no float32."""
    wide = Architecture(width=50, embed=50, attention=1, n_bins=1)
    tensors = {name: torch.full(shape, 1e30) for name, shape in wide.encoder_shapes.items()}
    vector = TaskVector(wide, "0" * 64, tensors)
    assert vector.norm == pytest.approx(1e30 * np.sqrt(len(vector.flat())), rel=1e-6)


def test_flatten_follows_the_architecture_and_not_the_mapping() -> None:
    backwards = dict(reversed(A.tensors.items()))
    assert torch.equal(flatten(backwards, SMALL), A.flat())


def test_applied_to_m0_it_restores_the_encoder_under_the_given_head() -> None:
    head = {f"head.{name}": MODELS[1].state_dict()[f"head.{name}"] for name in ("weight", "bias")}
    untouched = model_digest(M0)
    restored = A.applied_to(M0, head)
    np.testing.assert_allclose(row(restored), row(MODELS[0]), rtol=0, atol=1e-7)
    assert torch.equal(restored.head.weight, MODELS[1].head.weight)
    assert torch.equal(restored.head.bias, MODELS[1].head.bias) and model_digest(M0) == untouched


def test_a_vector_is_a_copy() -> None:
    model = untrained_model(SMALL, 1)
    vector = TaskVector.between(model, M0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(vector.flat(), A.flat()) and not any(tensor.requires_grad for tensor in vector.tensors.values())


@each("vector", [A, B - 3.0 * C])
def test_of_flat_is_the_way_back_from_flat(vector: TaskVector) -> None:
    back = TaskVector.of_flat(vector.flat(), like=C)
    assert (back.architecture, back.m0_sha256) == (SMALL, C.m0_sha256)
    assert list(back.tensors) == list(SMALL.encoder_shapes)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in vector.tensors.items())


def test_of_flat_puts_every_number_where_the_architecture_has_it() -> None:
    numbers = np.arange(len(a), dtype=np.float32)
    vector, start = TaskVector.of_flat(torch.from_numpy(numbers.copy()), like=A), 0
    for name, shape in SMALL.encoder_shapes.items():
        end = start + int(np.prod(shape))
        np.testing.assert_array_equal(vector.tensors[name].numpy(), numbers[start:end].reshape(shape))
        start = end
    assert start == len(numbers)


def test_a_vector_made_of_a_row_stays_there() -> None:
    row_ = A.flat().clone()
    vector = TaskVector.of_flat(row_, like=A)
    assert vector.flat().data_ptr() == row_.data_ptr() and torch.equal(vector.flat(), A.flat())
    assert all(torch.equal(tensor, A.tensors[name]) for name, tensor in vector.tensors.items())


def test_a_row_is_found_only_where_all_pieces_lie_in_order() -> None:
    """Pieces of one row in another order, or of a longer one with a gap, are joined instead."""
    backwards, at = torch.empty(len(a)), len(a)
    tensors = {}
    for name, tensor in A.tensors.items():
        at -= tensor.numel()
        tensors[name] = backwards[at : at + tensor.numel()].view(tensor.shape).copy_(tensor)
    turned = TaskVector(A.architecture, A.m0_sha256, tensors)
    assert torch.equal(turned.flat(), A.flat())
    assert turned.flat().untyped_storage().data_ptr() != backwards.untyped_storage().data_ptr()
    roomy = torch.empty(2 * len(a))
    at, tensors = 0, {}
    for name, tensor in A.tensors.items():
        tensors[name] = roomy[at : at + tensor.numel()].view(tensor.shape).copy_(tensor)
        at += tensor.numel() + 1
    assert torch.equal(TaskVector(A.architecture, A.m0_sha256, tensors).flat(), A.flat())


def direction(model: BaseModel) -> np.ndarray:
    """The mean over bins of a model's head, straight from its state."""
    return model.state_dict()["head.weight"].numpy().mean(axis=0)


def test_a_head_takes_part_in_the_arithmetic_and_a_missing_one_counts_as_zeros() -> None:
    with_a, with_b, _ = WITH_HEAD
    u, v = (direction(model) - direction(M0) for model in MODELS[:2])
    for found, head in [
        (with_a, u),
        (with_a + with_b, u + v),
        (with_a - with_b, u - v),
        (B - 2.0 * with_a, -2 * u),
        (with_a + B, u),
        (mean([with_a, with_b, C]), (u + v) / 3),
    ]:
        assert found.has_head and found.head is not None and found.head.dtype == torch.float32
        np.testing.assert_allclose(found.head, head, rtol=1e-5, atol=1e-7)
        everything = np.concatenate([found.flat(), head]).astype(np.float64)
        assert found.norm == pytest.approx(float(np.linalg.norm(everything)), rel=1e-6)
    np.testing.assert_allclose((with_a + with_b).flat(), a + b, rtol=1e-5, atol=1e-7)
    assert (
        not (A + B).has_head
        and torch.equal(with_a.flat(), A.flat())
        and not TaskVector.of_flat(with_a.flat(), like=with_a).has_head
    )
    assert not with_a.without_head().has_head and with_a.without_head().norm == A.norm


def test_a_merged_model_scores_with_the_shared_direction_and_the_bias_of_the_target() -> None:
    bias = torch.linspace(-3, -1, SMALL.n_bins)
    model = WITH_HEAD[0].merged_model(M0, bias)
    np.testing.assert_allclose(row(model), row(MODELS[0]), rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        model.head.weight.detach(), np.tile(direction(MODELS[0]), (SMALL.n_bins, 1)), rtol=0, atol=1e-7
    )
    assert torch.equal(model.head.bias.detach(), bias)
    with pytest.raises(VectorMismatchError, match="no head"):
        A.merged_model(M0, bias)
    with pytest.raises(VectorMismatchError, match="another M0"):
        WITH_HEAD[0].merged_model(MODELS[1], bias)


def test_a_head_of_another_length_is_refused() -> None:
    with pytest.raises(VectorMismatchError, match="risk direction: expected shape"):
        TaskVector(SMALL, A.m0_sha256, A.tensors, torch.zeros(SMALL.embed + 1))


@each("change", [1, -1])
def test_of_flat_refuses_a_row_of_another_length(change: int) -> None:
    with pytest.raises(RuntimeError, match="split_sizes"):
        TaskVector.of_flat(torch.zeros(len(a) + change), like=A)


@each(("field", "value"), [("width", 6), ("embed", 5), ("attention", 4), ("n_bins", 7)])
@each("operation", [TaskVector.__add__, TaskVector.__sub__, lambda x, y: mean([x, y])])
def test_vectors_of_different_architectures_do_not_meet(field: str, value: int, operation: Callable) -> None:
    other = dataclasses.replace(SMALL, **{field: value})
    stranger = TaskVector.between(untrained_model(other, 1), untrained_model(other, 0))
    with pytest.raises(VectorMismatchError, match="architectures differ"):
        operation(A, stranger)


@each("operation", [TaskVector.__add__, TaskVector.__sub__, lambda x, y: mean([x, y])])
def test_vectors_from_different_m0_do_not_meet(operation: Callable) -> None:
    stranger = TaskVector.between(MODELS[0], MODELS[1])
    with pytest.raises(VectorMismatchError, match=f"different M0: {model_digest(M0)[:12]} and"):
        operation(A, stranger)


def test_a_vector_is_not_applied_to_another_m0() -> None:
    with pytest.raises(VectorMismatchError, match="another M0"):
        A.applied_to(MODELS[0], {})


def test_no_vector_lies_between_unlike_models() -> None:
    other = untrained_model(dataclasses.replace(SMALL, n_bins=7), 0)
    with pytest.raises(VectorMismatchError, match="n_bins=6"):
        TaskVector.between(MODELS[0], other)


@each(
    ("change", "named"),
    [
        ({"embed.bias": None}, "embed.bias"),
        ({"head.bias": torch.zeros(6)}, "head.bias"),
        ({"attention_V.weight": torch.zeros(4, 3)}, "attention_V.weight"),
        ({"embed.bias": torch.zeros(4, 1)}, "embed.bias"),
        ({"attention_c.bias": torch.zeros(())}, "attention_c.bias"),
    ],
)
def test_wrong_names_and_shapes_are_refused(change: dict, named: str) -> None:
    tensors = {name: tensor for name, tensor in {**A.tensors, **change}.items() if tensor is not None}
    with pytest.raises(VectorMismatchError, match=f"tensor {named}: expected shape"):
        TaskVector(SMALL, A.m0_sha256, tensors)
