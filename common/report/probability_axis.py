"""The axis of a probability: from 0, or enlarged, and then it says so; and when two curves differ by nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_NARROW = 0.7  # what lies wholly above it is enlarged
_STEP = 0.05
NOTHING = 0.01  # no decision rests on a smaller difference of probabilities


def probability_axis(axes: Any, name: str, lowest: float) -> None:
    """Let the upright axis of ``axes`` start at 0, or just below ``lowest`` if all that is drawn is close to 1.

    Args:
        name: of the axis.
        lowest: smallest drawn probability.
    """
    start = 0.0 if lowest < _NARROW else math.floor((lowest - _STEP / 5) / _STEP) * _STEP
    top = 1.0 + 0.02 * (1.0 - start)
    axes.set(ylim=(start, top), ylabel=name if start == 0 else f"{name} (axis from {start:.2f})")


def told_difference(one: np.ndarray, other: np.ndarray) -> str:
    """A sentence on how far two curves ``(n_years,)`` of probabilities are apart; empty if one must look."""
    gap = float(np.abs(np.asarray(one) - np.asarray(other)).max())
    if gap >= NOTHING:
        return ""
    size = "less than 0.001" if gap < 0.001 else f"at most {gap:.3f}"
    return f"The two models differ by {size} in every year: for a patient, that is no difference."
