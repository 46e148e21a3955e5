"""STEPH's enhanced model: hypernetworks, mixture and head; every bag has its own merged encoder.

Where sources share the head's risk direction, a bag's direction is merged like its encoder, and the learned head adds
to it. Elsewhere the learned head stands alone, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedsteph.client.steph.hypernetwork import Hypernetwork
from fedsteph.client.steph.losses import aggregation_loss, mixing_loss
from fedsteph.client.steph.mixture import Mixture, coefficients, top_k
from fedsteph.client.steph.panel import Panel
from fedsteph.client.steph.sampling import sampled
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.cox import log_odds
from fedsteph.client.training.objective import Outputs
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.model.base_model import scores_of
from fedsteph.common.model.encode import encode


@dataclass(frozen=True)
class Routing:
    """How some bags were merged: ``w`` and ``lam`` ``(n_bags, n_sources)``, ``kept`` ``(n_bags, K)``."""

    w: Tensor
    lam: Tensor
    kept: Tensor


class Steph(nn.Module):
    """The enhanced model. It learns w, lam and the head; M0 and all task vectors are constants.

    1,340,984 learnable parameters with 12 sources at 1536 -> 512, 384, 32 bins.
    """

    def __init__(self, mixture: Mixture, config: StephConfig, dropout: float = 0.25) -> None:
        super().__init__()
        self.mixture = mixture
        self.config = config
        self.dropout = dropout
        sizes = mixture.architecture, mixture.n_sources
        self.hypernetwork = Hypernetwork(*sizes, config, dropout, mixture.headed)
        self.head = nn.Linear(mixture.architecture.embed, mixture.architecture.n_bins)
        self.panel: Panel | None = None  # once it is trained: who else predicts with it

    def route(self, bags: Tensor, mask: Tensor | None = None) -> Routing:
        """Compute w, lam and the kept sources of each bag ``(n_instances, d)``."""
        w, lam = self.hypernetwork(*self.seen(bags, mask))
        return Routing(w, lam, top_k(w, self.config.K))

    def seen(self, bags: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The part of the bags that routing sees, with its mask."""
        limit = self.config.routing_instances
        return (bags, mask) if limit is None else sampled(bags, mask, limit)

    def hazards(self, bags: Tensor, mask: Tensor | None, routing: Routing) -> Tensor:
        """Hazards ``(n_bags, n_bins)``, the panel's if there is one, of ``bags (n_bags, n_instances, d)`` so merged."""
        merged, c = self._merged(routing, bags.device)
        z, _ = encode(self.mixture.architecture, merged, bags, mask, self.dropout if self.training else 0.0)
        logits: Tensor = self.head(z)
        if self.mixture.heads is not None:
            logits = logits + (z * self.mixture.direction(c)).sum(dim=1, keepdim=True)
        hazards = torch.sigmoid(logits)
        return hazards if self.panel is None else self.panel(log_odds(hazards), self.mixture, bags, mask)

    def _merged(self, routing: Routing, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """The merged encoder of each bag, and the coefficients ``(n_bags, 1 + n_sources)`` of its vectors."""
        self.mixture = self.mixture.to(device)
        used = nn.functional.pad(routing.kept + 1, (1, 0))  # row 0 is the target's, always used
        c = coefficients(routing.w, routing.lam, routing.kept)
        return self.mixture.merge(c, used), c

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hazards of bags: ``(n_bags, n_instances, d) -> (n_bags, n_bins)``; the mask is True at real instances."""
        return self.hazards(bags, mask, self.route(bags, mask))

    @torch.no_grad()
    def attention(self, bag: Tensor) -> Tensor:
        """Attention ``(n_instances,)`` of the model merged for one bag ``(n_instances, d)``; it sums to 1.

        Raises:
            ConfigError: the kind of base model gives instances no scores.
        """
        bags = bag.unsqueeze(0)
        architecture = self.mixture.architecture
        merged, _ = self._merged(self.route(bags), bag.device)
        return scores_of(architecture, encode(architecture, merged, bags)[1][0])

    def outputs(self, batch: Batch, gamma: float, routing: Routing | None = None) -> Outputs:
        """Hazards, and ``gamma L_agg + beta L_mix`` of each bag (paper eq. 7); without ``routing``, it is computed."""
        routing = routing or self.route(batch.bags, batch.mask)
        balance = self.config.balance and self.config.K is not None  # in the release, a part of its top-K
        l_agg = aggregation_loss(routing.w, routing.kept, balance)
        penalty = gamma * l_agg + self.config.beta * mixing_loss(routing.lam, routing.kept)
        return Outputs(self.hazards(batch.bags, batch.mask, routing), penalty)
