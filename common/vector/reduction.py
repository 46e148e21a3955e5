"""Reduces a task vector to the tensors that are shared (layers, rank, dtype), and restores a vector from them.

What is not shared is restored as zeros. Sender and recipient get the same vector, bit for bit: the product of two
factors is summed in float64, one singular direction after the other, and rounded once. In float64 a product of two
numbers of a file is exact. A matrix product would sum in an order that depends on the library.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.errors import VectorRangeError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.shared_part import HEAD, factor_names, is_factored, shared_names
from fedsteph.common.vector.task_vector import TaskVector

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_WIDER: dict[Dtype, Dtype] = {"float16": "bfloat16", "bfloat16": "float32"}  # the next dtype with a larger range


def reduced(vector: TaskVector, sharing: SharingConfig) -> dict[str, Tensor]:
    """The tensors to share, as :func:`shared_shapes` lists them, rounded to the dtype (to nearest, ties to even).

    A head that the vector holds is among them, whatever ``sharing.head``, ``.layers`` and ``.rank`` are.

    With ``sharing.rank`` r, a matrix is replaced by its best rank-r approximation in the L2 norm (Eckart and Young,
    1936): the factors ``U_r S_r`` and ``V_r^T`` of its singular value decomposition, computed in float64 on the CPU.
    The entry of largest magnitude in each column of U is positive. Raises VectorRangeError, with the tensor, if a
    finite value is out of range for the dtype, or a matrix to be factored holds NaN or Inf.
    """
    shapes = vector.architecture.encoder_shapes
    found: dict[str, Tensor] = {} if vector.head is None else {HEAD: vector.head}
    for name in shared_names(vector.architecture, sharing):
        tensor, rank = vector.tensors[name].detach().cpu(), sharing.rank
        if rank is not None and is_factored(shapes[name], rank):
            found |= dict(zip(factor_names(name), _factors(name, tensor, rank), strict=True))
        else:
            found[name] = tensor
    return {name: _rounded(name, tensor, sharing.dtype) for name, tensor in found.items()}


def restored(
    tensors: Mapping[str, Tensor], architecture: Architecture, m0_sha256: str, sharing: SharingConfig
) -> TaskVector:
    """The whole vector in float32 from the tensors of :func:`reduced`. Finite factors can have an infinite product."""
    shapes, found = architecture.encoder_shapes, {}
    names = shared_names(architecture, sharing)
    for name, shape in shapes.items():
        if name not in names:
            found[name] = torch.zeros(shape)
        elif is_factored(shape, sharing.rank):
            left, right = (tensors[factor] for factor in factor_names(name))
            found[name] = _product(left.double(), right.double())
        else:
            found[name] = tensors[name].float()
    head = tensors.get(HEAD)
    return TaskVector(architecture, m0_sha256, found, None if head is None else head.float())


def _factors(name: str, matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    if not bool(matrix.isfinite().all()):
        what = "holds NaN or Inf and so has no singular directions"
        remedy = "Train the model again; what it was trained on is not sound"
        raise VectorRangeError(what, where=f"tensor {name}", remedy=remedy)
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    # If the matrix has a lower rank, the remaining singular directions are only rounding noise.
    s = torch.where(s > s[0] * max(matrix.shape) * torch.finfo(torch.float32).eps, s, 0.0)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank] * (s[:rank] > 0).unsqueeze(1)
    # The sign of a singular vector is arbitrary; it is fixed so that the same vector always makes the same file.
    signs = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign()
    return u * signs * s, vh * signs.T


def _product(left: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(len(left), right.shape[1])
    for column, row in zip(left.T, right, strict=True):
        total += torch.outer(column, row)
    return total.float()


def _rounded(name: str, tensor: Tensor, dtype: Dtype) -> Tensor:
    found = tensor.to(TORCH_DTYPES[dtype]).contiguous()
    beyond = found.isinf() & tensor.isfinite()
    if bool(beyond.any()):
        setting = f"sharing.dtype to {_WIDER[dtype]}" if dtype in _WIDER else "sharing.rank to null"
        what = f"holds {float(tensor[beyond].abs().max()):.4g}, which is beyond the range of {dtype}"
        raise VectorRangeError(what, where=f"tensor {name}", remedy=f"Set {setting} in the federation's configuration")
    return found
