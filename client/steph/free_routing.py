"""Tests, on the training patients alone, whether they need different sources, before STEPH is trained.

Weights that are free to differ between bags learn a small site by heart, unless there is something to learn. At the
first merge, the gradient ``s_bk`` of bag b's score with respect to ``w_k`` says how source k would move its risk, and
Cox's residual ``m_b`` which way the outcome wants it moved. If all patients need the same sources, ``m`` is unrelated
to the products of ``s`` (differences between sources) with where the bag lies among the others (its
:class:`Components`), beyond what either explains alone. The statistic is the squared length of that relation; its
p-value comes from random permutations of ``m``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.steph.components import mean_instance
from fedsteph.client.steph.first_merge import first_merge
from fedsteph.client.steph.model import Routing, Steph
from fedsteph.client.training.batch import batches
from fedsteph.client.training.cox import cox_loss, log_odds

_PERMUTATIONS = 999
_SEED = 20_260_311


def settle_routing(model: Steph, cohort: Cohort, device: torch.device) -> float:
    """Let the hypernetwork route freely if the p-value is at most ``steph.routing_test``; returns the p-value.

    Args:
        model: untrained, on the device, with a hypernetwork that is ``testable``.
    """
    means, moves, residuals = _at_first_merge(model, cohort, device)
    components = model.hypernetwork.components
    components.fit(means)
    place = components.of_means(means).cpu().double().numpy()
    p, limit = p_value(place, moves, residuals), model.config.routing_test
    if limit is not None and p <= limit:
        model.hypernetwork.route_freely()
    return p


def p_value(place: np.ndarray, moves: np.ndarray, residuals: np.ndarray) -> float:
    """P-value of "all patients need the same sources"; 1 where it cannot be told.

    Args:
        place: the bags' components, ``(n_patients, n_components)``.
        moves: gradient of each patient's score with respect to every w, ``(n_patients, n_sources)``.
        residuals: which way the outcomes want the scores moved, ``(n_patients,)``.
    """
    apart = moves - moves.mean(axis=1, keepdims=True)
    apart = apart - apart.mean(axis=0)
    n, n_alone = len(place), 1 + place.shape[1] + apart.shape[1]
    if n <= 2 * n_alone or not residuals.any() or not apart.any() or not place.any():
        return 1.0
    together = (place[:, :, None] * apart[:, None, :]).reshape(n, -1)
    alone = np.column_stack([np.ones(n), place, apart])
    fitted = alone @ np.linalg.pinv(alone)
    together, left = together - fitted @ together, residuals - fitted @ residuals
    rng = np.random.default_rng(_SEED)
    found = _length(together, left)
    drawn = [_length(together, rng.permutation(left)) for _ in range(_PERMUTATIONS)]
    return (1 + sum(one >= found for one in drawn)) / (1 + _PERMUTATIONS)


def _length(together: np.ndarray, left: np.ndarray) -> float:
    return float(((together.T @ left) ** 2).sum())


def _at_first_merge(model: Steph, cohort: Cohort, device: torch.device) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Mean instances, gradients with respect to w, and Cox's residuals, of every training patient."""
    model.eval()
    n_sources, n = model.mixture.n_sources, len(cohort)
    first_w, first_lam = (torch.tensor(one, device=device) for one in first_merge(model.config, model.mixture.headed))
    means, moves = torch.zeros(n, cohort.width, device=device), np.zeros((n, n_sources))
    scores = torch.zeros(n, dtype=torch.float64)
    for group, batch in batches(cohort, range(n), model.head.out_features, device):
        w, lam = (one.expand(len(group), -1).clone() for one in (first_w, first_lam))
        w.requires_grad_()
        every = torch.arange(n_sources, device=device).expand(len(group), -1)
        score = log_odds(model.hazards(batch.bags, batch.mask, Routing(w, lam, every)))
        moves[group] = torch.autograd.grad(score.sum(), w)[0].cpu().numpy()
        means[group] = mean_instance(*model.seen(batch.bags, batch.mask))[:, : cohort.width]
        scores[group] = score.detach().cpu().double()
    scores.requires_grad_()
    loss = cox_loss(scores, torch.tensor(cohort.times), torch.tensor(cohort.events))
    return means, moves, -torch.autograd.grad(loss, scores)[0].numpy()
