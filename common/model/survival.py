"""Discrete-time survival: yearly bins, hazards, NLL and risk. ``t`` in days; event = 1, censored = 0."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DAYS_PER_BIN = 365.0
_FLOOR = 1e-7  # each logarithm's argument is clamped here


def bin_of(t: np.ndarray, n_bins: int = 32) -> np.ndarray:
    """Yearly bin of each time: ``min(floor(t / 365), n_bins - 1)``, the same edges for every site.

    Args:
        t: times in days, any shape, at least 0.

    Returns:
        int64 bins of the same shape.
    """
    return np.minimum(np.floor_divide(np.asarray(t, dtype=np.float64), DAYS_PER_BIN), n_bins - 1).astype(np.int64)


def survival_from_hazards(hazards: Tensor) -> Tensor:
    """``S_j = prod_{i <= j} (1 - h_i)``.

    Args:
        hazards: ``(..., n_bins)`` in [0, 1].

    Returns:
        probability of surviving each bin, ``(..., n_bins)``.
    """
    return torch.cumprod(1.0 - hazards, dim=-1)


def risk_score(hazards: Tensor) -> Tensor:
    """``-sum_j S_j``: higher is worse. ``(..., n_bins) -> (...)``."""
    return -survival_from_hazards(hazards).sum(dim=-1)


def nll(hazards: Tensor, bins: Tensor, events: Tensor, alpha: float = 0.5) -> Tensor:
    """Negative log-likelihood of each bag, in nats.

    With event in bin y: ``-(log S_{y-1} + log h_y)``, where ``S_{-1} = 1``; censored in bin y:
    ``-(1 - alpha) log S_y``. Each logarithm's argument is clamped at 1e-7.

    Args:
        hazards: ``(n_bags, n_bins)``.
        bins: ``(n_bags,)`` int64.
        events: ``(n_bags,)``, 1 = event.
        alpha: how much less a censored bag weighs.

    Returns:
        ``(n_bags,)``.
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
    """Hazard per bin of a cohort, smoothed towards its mean hazard by ten pseudo patients per bin.

    ``h_j = (d_j + m hbar) / (n_j + m)`` with ``d_j`` events in and ``n_j`` patients at risk at bin j,
    ``hbar = sum d / sum n`` and ``m = 10``; a cohort without events gets ``hbar = 1 / (2 sum n)``, so that
    the logit stays finite.

    Args:
        bins: ``(n_patients,)`` yearly bins.
        events: ``(n_patients,)``, 1 = event.

    Returns:
        ``(n_bins,)`` in (0, 1).
    """
    deaths = np.bincount(bins[events > 0], minlength=n_bins).astype(np.float64)
    at_risk = np.cumsum(np.bincount(bins, minlength=n_bins)[::-1])[::-1].astype(np.float64)
    mean = max(deaths.sum(), 0.5) / at_risk.sum()
    smoothed: np.ndarray = (deaths + 10.0 * mean) / (at_risk + 10.0)
    clipped: np.ndarray = np.clip(smoothed, 1e-6, 1 - 1e-6)
    return clipped
