"""Discrete-time survival: yearly bins, hazards, negative log-likelihood and risk. Times in days, 1 = event."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DAYS_PER_BIN = 365.0
_FLOOR = 1e-7  # lower bound for the argument of each logarithm


def bin_of(t: np.ndarray, n_bins: int = 32) -> np.ndarray:
    """Yearly bin ``min(floor(t / 365), n_bins - 1)`` of each time in days, int64, the same edges for every site."""
    return np.minimum(np.floor_divide(np.asarray(t, dtype=np.float64), DAYS_PER_BIN), n_bins - 1).astype(np.int64)


def survival_from_hazards(hazards: Tensor) -> Tensor:
    """``S_j = prod_{i <= j} (1 - h_i)``, surviving to the end of each bin, from hazards; both ``(..., n_bins)``."""
    return torch.cumprod(1.0 - hazards, dim=-1)


def risk_score(hazards: Tensor) -> Tensor:
    """Risk ``-sum_j S_j``, without unit; higher is worse. Hazards ``(..., n_bins)`` -> risk ``(...)``."""
    return -survival_from_hazards(hazards).sum(dim=-1)


def nll(hazards: Tensor, bins: Tensor, events: Tensor, alpha: float = 0.5) -> Tensor:
    """Negative log-likelihood of each bag, in nats.

    With an event in bin y: ``-(log S_{y-1} + log h_y)``, where ``S_{-1} = 1``; censored in bin y: ``-(1 - alpha) log
    S_y``. The argument of each logarithm is at least 1e-7. Returns ``(n_bags,)``, in nats.

    Args:
        hazards: ``(n_bags, n_bins)``.
        bins: ``(n_bags,)`` int64, the yearly bin y of each bag's follow-up.
        events: ``(n_bags,)``, 1 = event, 0 = censored.
        alpha: reduces the weight of censored bags to ``1 - alpha``.
    """
    survival = survival_from_hazards(hazards)
    padded = torch.cat([torch.ones_like(survival[..., :1]), survival], dim=-1)
    y = bins.unsqueeze(-1)

    def log_at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-1, index).squeeze(-1).clamp(min=_FLOOR).log()

    event_term = log_at(padded, y) + log_at(hazards, y)
    censored_term = (1.0 - alpha) * log_at(padded, y + 1)
    return -torch.where(events > 0, event_term, censored_term)


def empirical_hazard(bins: np.ndarray, events: np.ndarray, n_bins: int = 32) -> np.ndarray:
    """Empirical hazard of a cohort per bin, smoothed towards its mean hazard by ten pseudo-patients per bin.

    ``h_j = (d_j + m hbar) / (n_j + m)`` with ``d_j`` events and ``n_j`` patients at risk in bin j, ``hbar = sum d / sum
    n`` and ``m = 10``. A cohort without events gets ``hbar = 1 / (2 sum n)``, so that the logit stays finite. Returns
    hazards ``(n_bins,)``, from 1e-6 to 1 - 1e-6.

    Args:
        bins: ``(n_patients,)`` yearly bins of the follow-up.
        events: ``(n_patients,)``, 1 = event, 0 = censored.
    """
    deaths = np.bincount(bins[events > 0], minlength=n_bins).astype(np.float64)
    at_risk = np.cumsum(np.bincount(bins, minlength=n_bins)[::-1])[::-1].astype(np.float64)
    mean = max(deaths.sum(), 0.5) / at_risk.sum()
    smoothed: np.ndarray = (deaths + 10.0 * mean) / (at_risk + 10.0)
    clipped: np.ndarray = np.clip(smoothed, 1e-6, 1 - 1e-6)
    return clipped
