"""Cox's partial likelihood of given log-risks on resamples of the patients (Breslow's method for ties)."""

from __future__ import annotations

import numpy as np


def resampled_losses(etas: np.ndarray, t: np.ndarray, e: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Negative partial log-likelihood of several models, summed over the events of each resample, in nats.

    A patient drawn twice counts as two: ``sum_i w_i e_i (log sum_{j: t_j >= t_i} w_j exp(eta_j) - eta_i)``.
    Log-risks ``etas (n_models, n)``, days ``t (n,)``, ``e (n,)`` (1 = event), and how often each patient is drawn,
    ``draws (n_draws, n)``, give ``(n_models, n_draws)``.
    """
    order = np.argsort(-t, kind="stable")
    t, e, w = t[order], e[order], draws[:, order].astype(np.float64)
    at_risk = np.searchsorted(-t, -t, side="right") - 1  # last index of each patient's risk set, ties included
    deaths = w * (e > 0)
    found = np.empty((len(etas), len(draws)))
    for row, eta in zip(found, etas[:, order], strict=True):
        shifted = eta - eta.max()
        total = np.cumsum(w * np.exp(shifted), axis=1)[:, at_risk]
        terms = np.log(np.where(deaths > 0, total, 1.0)) - shifted
        row[:] = np.where(deaths > 0, deaths * terms, 0.0).sum(axis=1)
    return found
