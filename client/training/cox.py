"""Cox's partial likelihood as a training loss, and the baseline hazards for its scores (Cox, JRSS B, 1972)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec

import numpy as np
import torch
from torch import Tensor

_EPS = 1e-7  # hazards are clamped to [_EPS, 1 - _EPS] before the logit


def log_odds(hazards: Tensor) -> Tensor:
    """Score that Cox's loss ranks patients by: the mean over bins of ``logit(h_j)``. ``(..., n_bins) -> (...)``."""
    return torch.logit(hazards, eps=_EPS).mean(dim=-1)


def cox_loss(score: Tensor, t: Tensor, events: Tensor) -> Tensor:
    """Cox's negative partial log-likelihood (JRSS B, 1972) with Efron's ties: mean over the events, in nats.

    Args:
        score: ``(n_bags,)`` log-risks.
        t: ``(n_bags,)`` days.
        events: ``(n_bags,)``, 1 = event.

    Returns:
        a scalar; 0 if there is nothing to rank: no event, or only one bag.
    """
    if not bool((events > 0).any()) or len(score) < 2:
        return score.sum() * 0.0
    # A bag censored at the time of another bag's event is still at risk then. torchsurv handles ties among events only
    # and would include it or not depending on the order of bags, so it is ranked just after the event.
    order = (2 * torch.unique(t, return_inverse=True)[1] + (events == 0)).to(score.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Ties in `time` detected")
        total = _partial_likelihood()(score, events > 0, order, reduction="sum")
    return total / (events > 0).sum()


@cache
def _partial_likelihood() -> Callable[..., Tensor]:
    """torchsurv's, without the rest of torchsurv: its metrics take over two seconds of every process that trains."""
    if "torchsurv" in sys.modules:
        return _imported()
    spec = find_spec("torchsurv")
    assert spec is not None
    sys.modules["torchsurv"] = module_from_spec(spec)  # the package without what its __init__ imports
    try:
        return _imported()
    finally:
        del sys.modules["torchsurv"]  # whoever imports it gets all of it


def _imported() -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = import_module("torchsurv.loss.cox").neg_partial_log_likelihood
    return found


def fitted_baseline(score: Tensor, bins: np.ndarray, events: np.ndarray, n_bins: int = 32) -> Tensor:
    """Baseline log-odds ``b_j`` of the discrete-time model ``logit(h_ij) = b_j + score_i``, by maximum likelihood.

    Each bin has ten pseudo patients with the mean score and the cohort's mean hazard, as in
    :func:`fedsteph.common.model.survival.empirical_hazard`, so that ``b_j`` is finite without events in a bin.

    ``score``, yearly ``bins`` and ``events`` (1 = event), each ``(n_patients,)``, give ``(n_bins,)`` float64.
    """
    eta = score.detach().double().cpu()
    at_risk = torch.from_numpy((np.asarray(bins)[:, None] >= np.arange(n_bins)).astype(np.float64))
    deaths = torch.from_numpy(np.bincount(bins[events > 0], minlength=n_bins).astype(np.float64))
    mean = min(max(float(deaths.sum()), 0.5) / float(at_risk.sum()), 1 - 1e-6)
    b = torch.full((n_bins,), float(np.log(mean / (1 - mean)))) - eta.mean()
    b = b.double()
    for _ in range(100):  # Newton's method with bounded steps; the likelihood is concave
        h, pseudo = torch.sigmoid(b + eta[:, None]), torch.sigmoid(b + eta.mean())
        slope = deaths - (at_risk * h).sum(dim=0) + 10.0 * (mean - pseudo)
        curve = (at_risk * h * (1 - h)).sum(dim=0) + 10.0 * pseudo * (1 - pseudo)
        step = (slope / curve).clamp(-1.0, 1.0)
        b = b + step
        if float(step.abs().max()) < 1e-10:
            break
    return b
