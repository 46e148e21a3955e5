"""Net benefit of deciding by a predicted probability of an event (Vickers and Elkin, Med. Decis. Making 2006).

With censoring, the events among those above a threshold are estimated by Kaplan-Meier (Vickers et al., BMC Med. Inform.
Decis. Mak. 2008).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fedsteph.client.evaluation.kaplan_meier import survival_curve
from fedsteph.common.model.survival import DAYS_PER_BIN

THRESHOLDS = tuple(percent / 100 for percent in range(2, 62, 2))


def net_benefit(
    predicted: np.ndarray, times: np.ndarray, events: np.ndarray, year: int, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, ...]:
    """Events that are found, minus the others that are treated for nothing, per patient, at each threshold.

    At a threshold p, those above it are treated, and one of the others costs ``p / (1 - p)`` of what an event gains.

    Args:
        predicted: ``(n,)`` probability of an event within ``year`` years; all 1: everybody is treated.
        times: ``(n,)`` days.
        events: ``(n,)``, 1 = event.
    """
    return tuple(_at(predicted, times, events, year, threshold) for threshold in thresholds)


def _at(predicted: np.ndarray, times: np.ndarray, events: np.ndarray, year: int, threshold: float) -> float:
    treated = predicted > threshold
    if not treated.any():
        return 0.0
    curve = survival_curve(torch.from_numpy(times[treated].astype(np.float64)), torch.from_numpy(events[treated] > 0))
    alive = float(curve.at(torch.tensor(year * DAYS_PER_BIN, dtype=torch.float64)))
    return float(treated.mean() * ((1.0 - alive) - alive * threshold / (1.0 - threshold)))
