"""The noise's randomness: from the operating system, and never from the recipe's seed, which everybody knows.

Whoever could repeat the noise could take it away. NumPy's PCG64DXSM stretches 256 random bits; it is no cipher, but
what leaves is a sum of hundreds of its draws with unknown gradients, from which its state does not follow. Attacks on
the lowest bits of a floating-point Gaussian (Mironov, CCS 2012) are not countered beyond rounding to float32.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

_WORDS = 8  # of 32 bits


@dataclass(frozen=True)
class Randomness:
    """One training's secret seed: ``(8,)`` uint32."""

    words: np.ndarray

    def __post_init__(self) -> None:
        if self.words.shape != (_WORDS,) or self.words.dtype != np.uint32:
            raise ValueError("a seed is eight 32-bit words")

    @classmethod
    def drawn(cls) -> Randomness:
        """A new one."""
        return cls(np.frombuffer(secrets.token_bytes(4 * _WORDS), dtype=np.uint32).copy())

    def of_step(self, step: int) -> np.random.Generator:
        """The generator of one step, so that an interrupted training goes on with the noise that it would have had."""
        entropy = np.random.SeedSequence([*self.words.tolist(), step], pool_size=_WORDS)  # NumPy's usual 4 keep half
        return np.random.Generator(np.random.PCG64DXSM(entropy))
