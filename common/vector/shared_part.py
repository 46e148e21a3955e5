"""Names, shapes and sizes of the tensors that are shared of a task vector, computed without the tensors themselves.

``sharing.layers`` leaves out whole layers; ``sharing.rank`` keeps the leading singular directions of a matrix, which is
then sent as two factors.
"""

from __future__ import annotations

import math

from fedsteph.common.config.recipe import Dtype, ModelConfig, SharingConfig
from fedsteph.common.encoders.kind import Shape
from fedsteph.common.model.architecture import Architecture

WHOLE = SharingConfig()  # the whole encoder in float32; updates of FedAvg and FedProx are always sent like this
BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
HEAD = "head.direction"  # in a vector file, of a vector with a head: shape (embed,)


def shared_names(architecture: Architecture, sharing: SharingConfig) -> list[str]:
    """Names of the encoder tensors that are shared, whole or factored, in their order."""
    return [name for name in architecture.encoder_shapes if architecture.encoder_kind.is_of(sharing.layers, name)]


def is_factored(shape: Shape, rank: int | None) -> bool:
    """Whether a tensor is sent as two factors: a matrix with more numbers than its factors of ``rank`` have."""
    return rank is not None and len(shape) == 2 and rank * sum(shape) < math.prod(shape)


def factor_names(name: str) -> tuple[str, str]:
    """Names in a vector file of a matrix's factors ``(m, r)`` and ``(r, n)``."""
    return f"{name}.left", f"{name}.right"


def shared_shapes(architecture: Architecture, sharing: SharingConfig, *, head: bool = False) -> dict[str, Shape]:
    """Names and shapes of the tensors in a vector file, with or without a head."""
    found: dict[str, Shape] = {HEAD: (architecture.embed,)} if head else {}
    shapes = architecture.encoder_shapes
    for name in shared_names(architecture, sharing):
        shape, rank = shapes[name], sharing.rank
        if rank is not None and is_factored(shape, rank):
            left, right = factor_names(name)
            found |= {left: (shape[0], rank), right: (rank, shape[1])}
        else:
            found[name] = shape
    return found


def shared_bytes(model: ModelConfig, sharing: SharingConfig, *, head: bool = False) -> int:
    """Bytes of one vector's values in a file, without the header; ``model.width`` must be set."""
    shapes = shared_shapes(Architecture.of(model), sharing, head=head)
    return BYTES[sharing.dtype] * sum(math.prod(shape) for shape in shapes.values())


def description(sharing: SharingConfig) -> str:
    """The dtype, and the layers and rank if not the whole vector is shared, as text for a card or a summary."""
    layers = [] if sharing.layers == "encoder" else [f"layers {sharing.layers}"]
    rank = [] if sharing.rank is None else [f"rank {sharing.rank}"]
    return ", ".join([sharing.dtype, *layers, *rank])
