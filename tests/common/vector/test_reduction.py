"""What travels of a vector: rounding against torch and numpy, directions against numpy, zeros for the rest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from each_case import each

from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.errors import VectorRangeError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.vector.reduction import reduced, restored
from fedsteph.common.vector.shared_part import WHOLE
from fedsteph.common.vector.task_vector import TaskVector

SMALL = Architecture(width=7, embed=6, attention=5, n_bins=3)
M0 = untrained_model(SMALL, 0)
A = TaskVector.between(untrained_model(SMALL, 1), M0)
MATRICES = ("embed.weight", "attention_V.weight", "attention_U.weight")


def received(vector: TaskVector, sharing: SharingConfig) -> TaskVector:
    return restored(reduced(vector, sharing), vector.architecture, vector.m0_sha256, sharing)


def in_dtype(vector: TaskVector, dtype: Dtype) -> TaskVector:
    return received(vector, SharingConfig(dtype))


def by_numpy(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Rounding without torch: numpy's own float16; for bfloat16 the upper half of the bits, ties to the even one."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32)


@each(("dtype", "cast", "worst"), [("float16", torch.float16, 2**-11), ("bfloat16", torch.bfloat16, 2**-8)])
@each("scale", [1.0, 1e-3, 1e-6])
def test_rounding_is_that_of_torch_and_of_numpy(dtype: Dtype, cast: torch.dtype, worst: float, scale: float) -> None:
    """``worst``: half the distance of two numbers; float16's grows where it runs out of exponents, below 6e-5."""
    vector = scale * A
    found = in_dtype(vector, dtype)
    assert all(tensor.dtype == torch.float32 for tensor in found.tensors.values())
    assert torch.equal(found.flat(), vector.flat().to(cast).to(torch.float32))
    np.testing.assert_array_equal(found.flat().numpy(), by_numpy(vector.flat().numpy(), dtype))
    assert not torch.equal(found.flat(), vector.flat())
    if scale == 1 or dtype == "bfloat16":
        assert (found - vector).norm <= worst * vector.norm
    assert torch.equal(in_dtype(found, dtype).flat(), found.flat())
    assert (found.architecture, found.m0_sha256) == (vector.architecture, vector.m0_sha256)


def test_float32_is_not_rounded() -> None:
    assert torch.equal(in_dtype(A, "float32").flat(), A.flat())


def holding(*values: float) -> TaskVector:
    bias = A.tensors["embed.bias"].clone()
    bias[: len(values)] = torch.tensor(values)
    return dataclasses.replace(A, tensors={**A.tensors, "embed.bias": bias})


@each(
    ("dtype", "fits", "beyond", "remedy"),
    [
        ("float16", 65519.99, 65520.0, "bfloat16"),  # half-way from the largest, 65504, to 65536
        ("bfloat16", 3.394e38, 3.397e38, "float32"),  # the largest is 3.3895e38
    ],
)
@each("sign", [1, -1])
def test_a_number_beyond_the_range_is_refused_by_tensor_with_the_remedy(dtype, fits, beyond, remedy, sign) -> None:
    found = in_dtype(holding(sign * fits), dtype)
    assert bool(found.flat().isfinite().all())
    with pytest.raises(VectorRangeError) as caught:
        in_dtype(holding(0.0, sign * beyond, 1.0), dtype)
    assert caught.value.where == "tensor embed.bias"
    assert f"holds {beyond:.4g}, which is beyond the range of {dtype}" in str(caught.value)
    assert f"sharing.dtype to {remedy} " in str(caught.value.remedy)
    assert bool(in_dtype(holding(sign * beyond), "float32").flat().isfinite().all())


@each("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(value: float) -> None:
    """It did not overflow; the reader refuses it."""
    for dtype in ("float16", "bfloat16"):
        assert not bool(in_dtype(holding(value), dtype).tensors["embed.bias"][0].isfinite())


@each("rank", [None, 1, 2])
@each(("layers", "absent"), [("attention", "embed."), ("embed", "attention_")])
def test_layers_that_stay_at_home_are_zero_and_the_others_as_they_are_with_them(layers, absent, rank) -> None:
    found, whole = received(A, SharingConfig(layers=layers, rank=rank)), received(A, SharingConfig(rank=rank))
    assert list(found.tensors) == list(SMALL.encoder_shapes)
    for name, tensor in found.tensors.items():
        expected = torch.zeros_like(tensor) if name.startswith(absent) else whole.tensors[name]
        assert torch.equal(tensor, expected) and tensor.dtype == torch.float32
    assert 0 < found.norm < whole.norm
    assert not [name for name in reduced(A, SharingConfig(layers=layers, rank=rank)) if name.startswith(absent)]


def test_the_default_is_the_vector_itself() -> None:
    assert torch.equal(received(A, WHOLE).flat(), A.flat()) and list(reduced(A, WHOLE)) == list(SMALL.encoder_shapes)


@each("rank", [1, 2])
def test_the_error_is_what_the_dropped_singular_values_hold(rank: int) -> None:
    """Eckart and Young: no matrix of that rank is nearer."""
    found = received(A, SharingConfig(rank=rank))
    for name, tensor in A.tensors.items():
        if name not in MATRICES:
            assert torch.equal(found.tensors[name], tensor)
            continue
        matrix, near = (of.tensors[name].double().numpy() for of in (A, found))
        dropped = np.linalg.svd(matrix, compute_uv=False)[rank:]
        assert np.linalg.norm(matrix - near) == pytest.approx(np.sqrt((dropped**2).sum()), rel=1e-6)
        assert np.linalg.matrix_rank(near, tol=1e-6) == rank
        u, s, vh = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(near, (u[:, :rank] * s[:rank]) @ vh[:rank], atol=1e-7)


def test_a_factor_holds_the_singular_values_and_its_largest_entries_are_positive() -> None:
    tensors = reduced(A, SharingConfig(rank=2))
    for name in MATRICES:
        left, right = tensors[f"{name}.left"].numpy(), tensors[f"{name}.right"].numpy()
        assert (left.shape, right.shape) == ((len(left), 2), (2, A.tensors[name].shape[1]))
        s = np.linalg.svd(A.tensors[name].double().numpy(), compute_uv=False)
        np.testing.assert_allclose(np.linalg.norm(left, axis=0), s[:2], rtol=1e-6)
        np.testing.assert_allclose(right @ right.T, np.eye(2), atol=1e-6)
        assert all(column[np.abs(column).argmax()] > 0 for column in left.T)


def test_a_vector_and_its_negative_have_the_same_left_factors() -> None:
    """As they would not if a sign were left to the library."""
    plus, minus = (reduced(vector, SharingConfig(rank=1)) for vector in (A, -1.0 * A))
    for name in MATRICES:
        assert torch.equal(plus[f"{name}.left"], minus[f"{name}.left"])
        assert torch.equal(plus[f"{name}.right"], -minus[f"{name}.right"])


@each("rank", [3, 4, 4096])
def test_a_matrix_that_its_factors_would_not_shorten_travels_whole(rank: int) -> None:
    """3 (5 + 6) = 33 numbers against 30, and 3 (6 + 7) = 39 against 42: here the embedding alone is factored."""
    names = list(reduced(A, SharingConfig(rank=rank)))
    assert [name for name in names if name.endswith((".left", ".right"))] == (
        ["embed.weight.left", "embed.weight.right"] if rank == 3 else []
    )
    found = received(A, SharingConfig(rank=rank))
    assert torch.equal(found.flat(), A.flat()) == (rank > 3)


def test_a_matrix_of_less_rank_comes_back() -> None:
    u, v = torch.arange(1.0, 7.0), torch.tensor([1.0, -2, 0.5, 0, 3, -1, 4])
    vector = dataclasses.replace(A, tensors={**A.tensors, "embed.weight": torch.outer(u, v)})
    for rank in (1, 2, 3):
        found = received(vector, SharingConfig(rank=rank)).tensors["embed.weight"]
        torch.testing.assert_close(found, torch.outer(u, v), rtol=1e-6, atol=1e-6)
    nothing = dataclasses.replace(A, tensors={name: 0.0 * tensor for name, tensor in A.tensors.items()})
    assert torch.equal(received(nothing, SharingConfig(rank=1)).flat(), nothing.flat())


@each(("dtype", "cast"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_factors_are_rounded_and_their_product_is_summed_in_float64(dtype: Dtype, cast: torch.dtype) -> None:
    exact, tensors = reduced(A, SharingConfig(rank=2)), reduced(A, SharingConfig(dtype, rank=2))
    found = received(A, SharingConfig(dtype, rank=2))
    for name in MATRICES:
        left, right = (tensors[f"{name}.{side}"] for side in ("left", "right"))
        assert left.dtype == right.dtype == cast
        torch.testing.assert_close(left, exact[f"{name}.left"].to(cast))
        product = left.double().numpy() @ right.double().numpy()
        np.testing.assert_array_equal(found.tensors[name].numpy(), product.astype(np.float32))


@each("value", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_directions(value: float) -> None:
    weight = A.tensors["attention_V.weight"].clone()
    weight[0, 0] = value
    vector = dataclasses.replace(A, tensors={**A.tensors, "attention_V.weight": weight})
    with pytest.raises(VectorRangeError, match=r"tensor attention_V\.weight: holds NaN or Inf"):
        reduced(vector, SharingConfig(rank=1))
    assert reduced(vector, SharingConfig(layers="embed", rank=1))


@each(
    ("dtype", "size", "remedy"),
    [("float16", 6e4, "sharing.dtype to bfloat16"), ("float32", 3e38, "sharing.rank to null")],
)
def test_a_factor_beyond_the_range_is_refused_although_its_matrix_is_not(dtype, size, remedy) -> None:
    vector = dataclasses.replace(A, tensors={**A.tensors, "embed.weight": torch.full((6, 7), size)})
    assert bool(received(vector, SharingConfig(dtype)).flat().isfinite().all())
    with pytest.raises(VectorRangeError, match=r"tensor embed\.weight\.left: .* beyond the range") as caught:
        reduced(vector, SharingConfig(dtype, rank=1))
    assert f"Set {remedy} " in str(caught.value.remedy)
