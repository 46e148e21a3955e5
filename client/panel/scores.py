"""Scores, or log-risks, of the panel's members over a cohort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.panel import member_score
from fedsteph.client.training.batch import batches, predict_hazards
from fedsteph.client.training.cox import log_odds
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector


def directions_of(m0: BaseModel, local: BaseModel, sources: Sequence[TaskVector]) -> Tensor:
    """Risk directions ``(1 + n_sources, embed)`` of the target's and each source's model; zeros without a head."""
    start = m0.risk_direction()
    rows = [torch.zeros_like(start) if one.head is None else start + one.head for one in sources]
    return torch.stack([local.risk_direction(), *rows])


def score(model: nn.Module, cohort: Cohort, device: torch.device) -> np.ndarray:
    """The score of every patient under one model, ``(n_patients,)``: the mean log-odds of its hazards."""
    return log_odds(torch.from_numpy(predict_hazards(model, cohort, device))).numpy()


@torch.no_grad()
def member_scores(mixture: Mixture, directions: Tensor, cohort: Cohort, device: torch.device) -> np.ndarray:
    """Every patient's score by the target's own and each source's model, ``(n_patients, 1 + n_sources)``.

    A score is ``direction . z``, without the constant of a head's bias; 0 for a source without a head.
    """
    mixture, directions = mixture.to(device), directions.to(device)
    found = np.zeros((len(cohort), len(directions)))
    heads = [m for m, direction in enumerate(directions) if bool(direction.any())]
    for group, batch in batches(cohort, range(len(cohort)), mixture.architecture.n_bins, device):
        for m in heads:
            found[group, m] = member_score(mixture, m, directions[m], batch.bags, batch.mask).cpu().double().numpy()
    return found
