"""Which part of a task vector travels: names, shapes and bytes, for whoever holds no tensor to count them.

Left out are whole layers (``sharing.layers``) and, of a matrix, all but its leading singular directions
(``sharing.rank``): such a matrix travels as two factors. Every site and the server derive the same from the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedsteph.common.config.recipe import Dtype, ModelConfig, SharingConfig
from fedsteph.common.model.encoder_shapes import Shape, encoder_shapes

WHOLE = SharingConfig()  # the whole encoder in float32: what FedAvg's and FedProx's updates always are
BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
_PREFIXES = {"encoder": "", "attention": "attention_", "embed": "embed."}


def shared_names(shapes: Mapping[str, Shape], sharing: SharingConfig) -> list[str]:
    """The encoder's tensors of which something travels, in their order."""
    return [name for name in shapes if name.startswith(_PREFIXES[sharing.layers])]


def is_factored(shape: Shape, rank: int | None) -> bool:
    """Whether a tensor travels as two factors of ``rank``: a matrix that has more numbers than they have.

    ``r (m + n) < m n`` holds for no r that is not smaller than both m and n.
    """
    return rank is not None and len(shape) == 2 and rank * sum(shape) < math.prod(shape)


def factor_names(name: str) -> tuple[str, str]:
    """What the factors ``(m, r)`` and ``(r, n)`` of a matrix are called in a file."""
    return f"{name}.left", f"{name}.right"


def shared_shapes(shapes: Mapping[str, Shape], sharing: SharingConfig) -> dict[str, Shape]:
    """Names and shapes of the tensors that a vector file holds.

    Args:
        shapes: of the whole encoder.
    """
    found: dict[str, Shape] = {}
    for name in shared_names(shapes, sharing):
        shape, rank = shapes[name], sharing.rank
        if rank is not None and is_factored(shape, rank):
            left, right = factor_names(name)
            found |= {left: (shape[0], rank), right: (rank, shape[1])}
        else:
            found[name] = shape
    return found


def shared_bytes(model: ModelConfig, sharing: SharingConfig) -> int:
    """What the numbers of one vector take, a file's header apart. The width must be known."""
    shapes = shared_shapes(encoder_shapes(model.width or 0, model.embed, model.attention), sharing)
    return BYTES[sharing.dtype] * sum(math.prod(shape) for shape in shapes.values())


def description(sharing: SharingConfig) -> str:
    """For a card or a summary: the dtype, and what of a vector travels where it is not all."""
    layers = [] if sharing.layers == "encoder" else [f"layers {sharing.layers}"]
    rank = [] if sharing.rank is None else [f"rank {sharing.rank}"]
    return ", ".join([sharing.dtype, *layers, *rank])
