"""Dropout on a product of two branches, with one 16-bit random draw per entry instead of two floats.

Dropping entries of ``a`` and of ``b`` independently, each with probability p, is the same as dropping entries of
``a * b`` with probability ``1 - (1 - p)^2`` and scaling the kept ones by ``1 / (1 - p)^2``. This holds because each
branch is used only in the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsteph.common.model.seeded import CPU

_LEVELS = 2**16


@dataclass(frozen=True)
class GateDropout:
    """Dropout of a gated product ``a * b``, equal to dropout with probability p on each branch."""

    # How many of the 65,536 equally likely draws drop an entry. This is exact for p = 0.25; otherwise the probability
    # is off by at most 2^-17 (2^-16 near 1), and the scale fits the probability used.
    dropped: int
    seed: int  # the draws are a function of it and of a position, so that they can be repeated

    @classmethod
    def drawn(cls, p: float) -> GateDropout | None:
        """The dropout of one forward pass, seeded by torch's CPU generator; None if p is 0."""
        if p == 0.0:
            return None
        dropped = min(_LEVELS - 1, round(_LEVELS * (1.0 - (1.0 - p) ** 2)))
        return cls(dropped, int(torch.randint(2**31, ())))

    @property
    def scale(self) -> float:
        """Factor for the kept entries; the weights of the next layer can be multiplied by it instead."""
        return _LEVELS / (_LEVELS - self.dropped)

    def keep(self, like: Tensor, position: int = 0) -> Tensor:
        """The mask in the shape of ``like``, uint8, 1 = kept. ``position`` is added to the seed: other draws."""
        where = CPU if like.device.type == "mps" else like.device  # an Apple GPU draws no 64-bit words
        generator = torch.Generator(where).manual_seed(self.seed + position)
        words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=where)
        words.random_(-(2**63), None, generator=generator)
        draws = words.view(torch.int16)[: like.numel()].view(like.shape)
        return (draws >= self.dropped - _LEVELS // 2).view(torch.uint8).to(like.device)
