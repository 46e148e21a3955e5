"""Damaged copies of files."""

from __future__ import annotations

import numpy as np


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit flipped."""
    found = bytearray(content)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def mutant(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with 1 to 32 bytes changed, or cut, or with a part repeated or removed; never the content itself."""
    found = bytearray(content)
    what, at = int(rng.integers(0, 8)), int(rng.integers(0, len(content)))
    size = int(rng.integers(1, 65))
    if what == 0:
        del found[at:]
    elif what == 1:
        del found[at : at + size]
    elif what == 2:
        found[at:at] = found[at : at + size]
    else:
        for place in rng.integers(0, len(content), int(rng.integers(1, 33))).tolist():
            found[place] = int(rng.integers(0, 256))
    return bytes(found) if found != content else flipped(content, 8 * at)
