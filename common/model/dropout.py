"""Dropout on the product of two branches: one draw of 16 bits instead of two of a float.

Dropping entries of ``a`` and of ``b`` independently, each with probability p, is dropping entries of ``a * b`` with
probability ``1 - (1 - p)^2``: the product keeps an entry where both are kept, and both are scaled by ``1 / (1 - p)``.
That holds because neither branch is used but in the product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEVELS = 2**16


@dataclass(frozen=True)
class GateDropout:
    """Dropout of a gated product ``a * b`` whose branches each drop with probability p.

    Args:
        dropped: of 65,536 equally likely draws, how many drop an entry. At p = 0.25 that is exact; else the
            probability is at most ``2^-17`` off (``2^-16`` next to 1), and the scale is that of the probability used.
        seed: what is drawn is a function of it and of a position, so that it can be drawn again.
    """

    dropped: int
    seed: int

    @classmethod
    def drawn(cls, p: float) -> GateDropout | None:
        """One pass's dropout, seeded by torch's generator of the CPU; None where p is 0."""
        if p == 0.0:
            return None
        dropped = min(_LEVELS - 1, round(_LEVELS * (1.0 - (1.0 - p) ** 2)))
        return cls(dropped, int(torch.randint(2**31, ())))

    @property
    def scale(self) -> float:
        """What kept entries are multiplied by; it can as well multiply the weights that they meet next."""
        return _LEVELS / (_LEVELS - self.dropped)

    def keep(self, like: Tensor, position: int = 0) -> Tensor:
        """1 where an entry is kept, else 0, as uint8 of the shape and on the device of ``like``.

        Args:
            position: draws at different positions are independent.
        """
        generator = torch.Generator(like.device).manual_seed(self.seed + position)
        words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
        words.random_(-(2**63), None, generator=generator)
        draws = words.view(torch.int16)[: like.numel()].view(like.shape)
        return (draws >= self.dropped - _LEVELS // 2).view(torch.uint8)
