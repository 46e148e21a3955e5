"""Weights by the inverse probability of censoring (IPCW), and Uno's weights (Uno et al., Stat. Med. 2011)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.evaluation.kaplan_meier import censoring_curve


class Censoring:
    """The Kaplan-Meier curve of censoring of some patients, such as the training patients.

    Args:
        t: ``(n,)`` follow-up in days, float32 or float64; weights are of this type too.
        events: ``(n,)`` bool.
    """

    def __init__(self, t: Tensor, events: Tensor) -> None:
        self._curve = censoring_curve(t, events)
        known = t[self._curve.at(t) > 0]
        self.known_until = float(known.max()) if len(known) else 0.0  # beyond it every weight is unknown

    def weight(self, at: Tensor) -> Tensor:
        """One over the probability of not being censored by ``at`` (days); 0 where that is 0. The shape of ``at``."""
        uncensored = self._curve.at(at)
        return torch.where(uncensored > 0, 1.0 / uncensored, 0.0)


def uno_weights(times: np.ndarray, train_times: np.ndarray, train_events: np.ndarray) -> np.ndarray:
    """Weight of each test patient's event in Uno's C, ``(n_test,)``; 0 beyond the training patients' follow-up.

    Args:
        times: ``(n_test,)`` follow-up of the test patients in days.
        train_times: ``(n_train,)`` of those whose censoring is estimated.
        train_events: ``(n_train,)``, 1 = event.
    """
    censoring = Censoring(torch.tensor(train_times, dtype=torch.float64), torch.tensor(train_events > 0))
    weights: np.ndarray = censoring.weight(torch.tensor(times, dtype=torch.float64)).numpy() ** 2
    return np.where(times <= censoring.known_until, weights, 0.0)
