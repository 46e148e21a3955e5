"""Draws the members of each reference model: one fair coin per patient and pair of models."""

from __future__ import annotations

import numpy as np

from fedsteph.client.training.loop import derive_seed
from fedsteph.common.errors import TooSmallError

MIN_REFERENCES = 16
_DRAWS = 100


def require_references(n_references: int) -> None:
    """Raise ValueError for a number of reference models that is odd, or too small to compare scores in and out."""
    if n_references < MIN_REFERENCES or n_references % 2:
        raise ValueError(f"the number of reference models must be even and at least {MIN_REFERENCES}")


def halves(events: np.ndarray, n_references: int, seed: int) -> np.ndarray:
    """Draw which patients each reference model is trained on.

    Models come in complementary pairs (2k, 2k + 1). A coin per patient decides in which of the two it is, so each
    patient is in exactly half of all models. A pair is drawn again if one of its halves has no event. With ten events
    this is one pair in 500; otherwise the coins are independent. More models do not change the earlier pairs.

    Args:
        events: ``(n_patients,)``, 1 = event.
        n_references: even, at least 16.

    Returns:
        ``(n_references, n_patients)`` bool.

    Raises:
        TooSmallError: no draw has an event in both halves.
    """
    require_references(n_references)
    return np.concatenate([_pair(events, derive_seed(seed, "membership", pair)) for pair in range(n_references // 2)])


def _pair(events: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        inside = rng.random(len(events)) < 0.5
        if events[inside].any() and events[~inside].any():
            return np.stack([inside, ~inside])
    raise TooSmallError("no half of the patients has an event on both sides", remedy="An audit needs more events")
