"""Who is in which reference model: one fair coin per patient and pair of models, so that membership is known."""

from __future__ import annotations

import numpy as np

from fedsteph.client.training.loop import derive_seed
from fedsteph.common.errors import TooSmallError

MIN_REFERENCES = 16
_DRAWS = 100


def require_references(n_references: int) -> None:
    """Raises:
    ValueError: too few to tell a patient's scores inside from those outside, or an odd number.
    """
    if n_references < MIN_REFERENCES or n_references % 2:
        raise ValueError(f"the number of reference models must be even and at least {MIN_REFERENCES}")


def halves(events: np.ndarray, n_references: int, seed: int) -> np.ndarray:
    """Membership of each patient in each reference model.

    Models come in complementary pairs (2k, 2k + 1): a coin per patient says in which of the two it is, so each patient
    is in exactly half of all models. A pair whose halves do not both have an event is drawn again; with ten events that
    is one pair in 500, and it is all that keeps the coins from being independent. More models leave the first as they
    are.

    Args:
        events: ``(n_patients,)``, 1 = event.
        n_references: at least 16, and even.

    Returns:
        ``(n_references, n_patients)`` bool.

    Raises:
        TooSmallError: no draw has an event on both sides.
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
