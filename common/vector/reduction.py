"""From a task vector to the tensors that travel, and back to a vector with zeros where nothing did.

Both ends compute the same: what a sender takes for its shared vector is, bit for bit, what a recipient restores. The
product of two factors is therefore summed direction by direction in float64, where a product of two numbers of a file
is exact, and rounded once; a matrix product's order of summation is a library's own affair.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsteph.common.config.recipe import Dtype, SharingConfig
from fedsteph.common.errors import VectorRangeError
from fedsteph.common.model.abmil import Architecture
from fedsteph.common.vector.shared_part import factor_names, is_factored, shared_names
from fedsteph.common.vector.task_vector import TaskVector

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_WIDER: dict[Dtype, Dtype] = {"float16": "bfloat16", "bfloat16": "float32"}  # the next one with a larger range


def reduced(vector: TaskVector, sharing: SharingConfig) -> dict[str, Tensor]:
    """The tensors that travel, each number the nearest one that the dtype has (of two, the even one).

    Of a matrix, the best approximation of its rank in the L2 norm (Eckart and Young, 1936): ``U_r S_r`` and ``V_r^T``
    of its singular value decomposition, in float64 on the CPU, the largest entry of each column of U positive.

    Returns:
        name -> CPU tensor in the dtype, as :func:`fedsteph.common.vector.shared_part.shared_shapes` lists them.

    Raises:
        VectorRangeError: a number is finite and would not be in the dtype, or a matrix to be factored has one that is
            not finite; it names the tensor.
    """
    shapes = vector.architecture.encoder_shapes
    found: dict[str, Tensor] = {}
    for name in shared_names(shapes, sharing):
        tensor, rank = vector.tensors[name].detach().cpu(), sharing.rank
        if rank is not None and is_factored(shapes[name], rank):
            found |= dict(zip(factor_names(name), _factors(name, tensor, rank), strict=True))
        else:
            found[name] = tensor
    return {name: _rounded(name, tensor, sharing.dtype) for name, tensor in found.items()}


def restored(
    tensors: Mapping[str, Tensor], architecture: Architecture, m0_sha256: str, sharing: SharingConfig
) -> TaskVector:
    """The vector that :func:`reduced` tensors stand for, in float32; its numbers may be infinite where theirs are not.

    Args:
        tensors: names and shapes as :func:`fedsteph.common.vector.shared_part.shared_shapes` lists them.
    """
    shapes, found = architecture.encoder_shapes, {}
    names = shared_names(shapes, sharing)
    for name, shape in shapes.items():
        if name not in names:
            found[name] = torch.zeros(shape)
        elif is_factored(shape, sharing.rank):
            left, right = (tensors[factor] for factor in factor_names(name))
            found[name] = _product(left.double(), right.double())
        else:
            found[name] = tensors[name].float()
    return TaskVector(architecture, m0_sha256, found)


def _factors(name: str, matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    if not bool(matrix.isfinite().all()):
        raise VectorRangeError(
            "holds NaN or Inf and so has no singular directions",
            where=f"tensor {name}",
            remedy="Train the model again; what it was trained on is not sound",
        )
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    # Of a matrix of lower rank, the other directions are whatever the rounding made of them.
    s = torch.where(s > s[0] * max(matrix.shape) * torch.finfo(torch.float32).eps, s, 0.0)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank] * (s[:rank] > 0).unsqueeze(1)
    # A singular vector's sign is arbitrary: one vector must not make two files.
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
        raise VectorRangeError(
            f"holds {float(tensor[beyond].abs().max()):.4g}, which is beyond the range of {dtype}",
            where=f"tensor {name}",
            remedy=f"Set {setting} in the federation's configuration",
        )
    return found
