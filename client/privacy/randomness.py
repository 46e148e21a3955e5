"""Generates the noise of DP-SGD from a secret seed of the operating system, never from the recipe's public seed.

Anyone who can repeat the noise can remove it. NumPy's PCG64DXSM expands 256 random bits. It is not a cipher, but what
leaves is a sum of hundreds of its draws with unknown gradients, from which its state cannot be derived. Attacks on the
lowest bits of a floating-point Gaussian (Mironov, CCS 2012) are not countered beyond rounding to float32.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

_WORDS = 8  # of 32 bits


@dataclass(frozen=True)
class Randomness:
    """The secret seed of one training: ``(8,)`` uint32."""

    words: np.ndarray

    def __post_init__(self) -> None:
        if self.words.shape != (_WORDS,) or self.words.dtype != np.uint32:
            raise ValueError("a seed is eight 32-bit words")

    @classmethod
    def drawn(cls) -> Randomness:
        """Draw a new seed."""
        return cls(np.frombuffer(secrets.token_bytes(4 * _WORDS), dtype=np.uint32).copy())

    def of_step(self, step: int) -> np.random.Generator:
        """The random generator of one step, so that a resumed training has the same noise as an uninterrupted one."""
        # NumPy's default pool of 4 words would keep only half of the seed's bits.
        entropy = np.random.SeedSequence([*self.words.tolist(), step], pool_size=_WORDS)
        return np.random.Generator(np.random.PCG64DXSM(entropy))
