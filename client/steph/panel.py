"""The panel of an enhanced model: it, the target's own model and the received ones predict a patient's risk together.

``logit(h_j) = b_j + sum_m a_m s_m`` with the score ``s_m`` of each model, its log-risk, and baseline log-odds ``b_j``
that are fitted at the target. The members share M0, so a member is a row of the mixture and a risk direction. Every
member makes a pass of its own over the bag; those without a weight make none. A member's score is held within the range
of the target's training patients: so no patch that a source's model was taught to react to can move a risk further.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsteph.client.steph.mixture import Mixture
from fedsteph.common.model.encode import encode
from fedsteph.common.vector.task_vector import cut


class Panel(nn.Module):
    """The members' weights and risk directions, and the baseline; nothing of it is trained by gradients."""

    weight: Tensor  # (2 + n_sources,): of the enhanced model, the target's own and each source's; per unit of score
    directions: Tensor  # (1 + n_sources, embed): of the target's own model and each source's
    low: Tensor  # (1 + n_sources,): least score of the target's training patients, by the same models
    high: Tensor  # (1 + n_sources,): largest one
    baseline: Tensor  # (n_bins,) log-odds

    def __init__(self, n_sources: int, embed: int, n_bins: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(2 + n_sources))
        self.register_buffer("directions", torch.zeros(1 + n_sources, embed))
        self.register_buffer("low", torch.zeros(1 + n_sources))
        self.register_buffer("high", torch.zeros(1 + n_sources))
        self.register_buffer("baseline", torch.zeros(n_bins))

    def forward(self, merged: Tensor, mixture: Mixture, bags: Tensor, mask: Tensor | None) -> Tensor:
        """Hazards ``(n_bags, n_bins)`` of ``bags (n_bags, n_instances, d)``; ``merged (n_bags,)``: enhanced scores."""
        first, *rest = self.weight.tolist()
        score = first * merged
        for m, weight in enumerate(rest):
            if weight:
                own = member_score(mixture, m, self.directions[m], bags, mask)
                score = score + weight * own.clamp(self.low[m], self.high[m])
        return torch.sigmoid(self.baseline + score.unsqueeze(1))


def member_score(mixture: Mixture, m: int, direction: Tensor, bags: Tensor, mask: Tensor | None) -> Tensor:
    """The log-risk ``(n_bags,)`` of the model of the mixture's row ``m``, up to a constant: ``direction . z``."""
    theta = cut(mixture.theta_0 + mixture.rows[m], mixture.architecture)
    z, _ = encode(mixture.architecture, theta, bags, mask)
    return z @ direction
