"""Cox's partial likelihood as a training loss, and the hazards that belong to what it learned (Cox, JRSS B, 1972)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

_EPS = 1e-7  # hazards are clamped this far from 0 and 1 before their logit is taken


def log_odds(hazards: Tensor) -> Tensor:
    """What Cox's loss orders patients by: the mean over bins of ``logit(h_j)``. ``(..., n_bins) -> (...)``."""
    return torch.logit(hazards, eps=_EPS).mean(dim=-1)


def cox_loss(score: Tensor, t: Tensor, events: Tensor) -> Tensor:
    """Cox's negative partial log-likelihood over some bags, Efron's ties, mean over events (JRSS B, 1972), in nats.

    Args:
        score: ``(n_bags,)`` log-risks.
        t: ``(n_bags,)`` days.
        events: ``(n_bags,)``, 1 = event.

    Returns:
        a scalar; 0 where nothing is to be ordered: no event, or one bag alone.
    """
    if not bool((events > 0).any()) or len(score) < 2:
        return score.sum() * 0.0
    from torchsurv.loss.cox import neg_partial_log_likelihood  # noqa: PLC0415 (a second to import)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Ties in `time` detected")
        total: Tensor = neg_partial_log_likelihood(
            score, events > 0, _order(t, events).to(score.dtype), reduction="sum"
        )
    return total / (events > 0).sum()


def _order(t: Tensor, events: Tensor) -> Tensor:
    # A bag that is censored when another has its event is still at risk then. torchsurv looks for ties among events
    # only and would leave it out or not by the order of bags, so ranks put it just behind.
    ranks: Tensor = torch.unique(t, return_inverse=True)[1]
    return 2 * ranks + (events == 0)


def fitted_baseline(score: Tensor, bins: np.ndarray, events: np.ndarray, n_bins: int = 32) -> Tensor:
    """Baseline log-odds ``b_j`` of the discrete-time model ``logit(h_ij) = b_j + score_i``, by maximum likelihood.

    Each bin has ten pseudo patients of the mean score with the cohort's mean hazard, as in
    :func:`empirical_hazard`, so that a bin without events stays finite.

    Args:
        score: ``(n_patients,)``.
        bins: ``(n_patients,)`` yearly bins.
        events: ``(n_patients,)``, 1 = event.

    Returns:
        ``(n_bins,)`` float64.
    """
    eta = score.detach().double().cpu()
    at_risk = torch.from_numpy((np.asarray(bins)[:, None] >= np.arange(n_bins)).astype(np.float64))
    deaths = torch.from_numpy(np.bincount(bins[events > 0], minlength=n_bins).astype(np.float64))
    mean = min(max(float(deaths.sum()), 0.5) / float(at_risk.sum()), 1 - 1e-6)
    b = torch.full((n_bins,), float(np.log(mean / (1 - mean)))) - eta.mean()
    b = b.double()
    for _ in range(100):  # Newton's method on a concave likelihood, its steps bounded
        h, pseudo = torch.sigmoid(b + eta[:, None]), torch.sigmoid(b + eta.mean())
        slope = deaths - (at_risk * h).sum(dim=0) + 10.0 * (mean - pseudo)
        curve = (at_risk * h * (1 - h)).sum(dim=0) + 10.0 * pseudo * (1 - pseudo)
        step = (slope / curve).clamp(-1.0, 1.0)
        b = b + step
        if float(step.abs().max()) < 1e-10:
            break
    return b
