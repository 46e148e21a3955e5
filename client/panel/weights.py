"""Learns the weights of a panel's groups: a Cox model of their scores, with a ridge towards what is expected.

With few events the weights stay as expected; many events overrule that. Weights learned freely lose more by chance than
they win, and fixed ones would follow received models that know nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedsteph.client.panel.held_out import Part
from fedsteph.client.training.cox import cox_loss
from fedsteph.client.training.optimizer import LBFGS

_STEPS = 100
_SCALE_DOUBT = 1.0  # of a common factor on all weights, whose expected value is 1


def learned(parts: Sequence[Part], expected: np.ndarray, doubt: float) -> np.ndarray:
    """Weights ``(n_groups,)``, log hazard ratios: the ridge's, then brought to the scale that the outcomes ask for.

    The ridge is ``sum (a - expected)^2 / (2 doubt^2)`` beside the negative partial log-likelihood, in nats.
    """
    weights = expected if doubt == 0 else _fit(parts, expected, doubt)
    together = [replace(one, scores=one.scores @ weights[:, None]) for one in parts]
    factor: np.ndarray = _fit(together, np.ones(1), _SCALE_DOUBT)
    scaled: np.ndarray = weights * max(float(factor[0]), 0.05)
    return scaled


def _fit(parts: Sequence[Part], expected: np.ndarray, doubt: float) -> np.ndarray:
    start = torch.from_numpy(expected)
    a = start.clone().requires_grad_()
    given = [(torch.tensor(p.scores), torch.tensor(p.times), torch.tensor(p.events)) for p in parts]
    given = [(x, t, e) for x, t, e in given if bool((e > 0).any()) and len(e) > 1]
    optimizer = LBFGS([a], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        total = ((a - start) / doubt).square().sum() / 2
        for x, t, e in given:
            total = total + cox_loss(x @ a, t, e) * (e > 0).sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    found: np.ndarray = a.detach().numpy()
    return found
