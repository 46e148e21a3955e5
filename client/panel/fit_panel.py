"""Makes the panel of a trained enhanced model: standardises its members, weighs them, and fits the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.panel.held_out import SourceGroups, spread
from fedsteph.client.panel.scores import directions_of, member_scores, score
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.panel import Panel
from fedsteph.client.training.cox import fitted_baseline
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.survival import bin_of
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class PanelMembers:
    """The models of a panel beside the enhanced one, and their scores of a fold's training patients."""

    directions: Tensor  # (1 + n_sources, embed), the target's own model's first
    own: np.ndarray  # (n_patients,) scores of the target's own model
    received: SourceGroups

    @classmethod
    def of(
        cls,
        local: BaseModel,
        sources: Mapping[str, TaskVector],
        kin: frozenset[str],
        cohort: Cohort,
        recipe: Recipe,
        device: torch.device,
    ) -> PanelMembers:
        """The target's own model and the received ones over the patients that the own one was trained on.

        Args:
            sources: source -> received vector, with its head where one came.
            kin: names of the sources of the target's cancer.
        """
        m0, vectors = pinned_model(recipe.model), list(sources.values())
        mixture = Mixture.of(m0, TaskVector.between(local, m0), vectors, normalise=recipe.steph.normalise)
        directions = directions_of(m0, local, vectors)
        scores = member_scores(mixture, directions, cohort, device)
        heads, of_kin = [one.has_head for one in vectors], [name in kin for name in sources]
        return cls(directions, scores[:, 0], SourceGroups.of(scores[:, 1:], cohort, heads, of_kin))


def set_panel(
    model: Steph, members: PanelMembers, weights: Mapping[str, float], cohort: Cohort, device: torch.device
) -> None:
    """Give a trained enhanced model its panel, in place; from then on its hazards are the panel's.

    Args:
        members: of the same vectors, over ``cohort``.
        weights: group -> log hazard ratio per standard deviation of its score.
        cohort: the training patients.
    """
    n_bins, groups, merged = model.head.out_features, members.received, score(model, cohort, device)
    scores = np.column_stack([merged, members.own, groups.scores])
    weight = np.zeros(scores.shape[1])
    weight[:2] = weights["steph"] / spread(merged), weights["local"] / spread(members.own)
    for group, columns in groups.members.items():
        for k in columns:
            weight[2 + k] = weights[group] * groups.factors[k]
    baseline = fitted_baseline(torch.from_numpy(scores @ weight), bin_of(cohort.times, n_bins), cohort.events, n_bins)
    panel = Panel(len(members.directions) - 1, model.mixture.architecture.embed, n_bins)
    panel.weight.copy_(torch.from_numpy(weight))
    panel.directions.copy_(members.directions)
    panel.low.copy_(torch.from_numpy(scores[:, 1:].min(axis=0)))
    panel.high.copy_(torch.from_numpy(scores[:, 1:].max(axis=0)))
    panel.baseline.copy_(baseline)
    model.panel = panel.to(device)
