"""The hypernetworks: a shared mean-MIL encoder and two heads that give every source its w and lam, per bag."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.abmil import Architecture
from common.config import StephConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
}


class MeanEncoder(nn.Module):
    """``z = mean_i ReLU(W x_i + b)``: ``(n_bags, n_instances, d) -> (n_bags, embed)``."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.embed = nn.Linear(architecture.width, architecture.embed)

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        h = functional.relu(self.embed(bags))
        if mask is None:
            return h.mean(dim=1)
        weight = mask.to(h.dtype) / mask.sum(dim=1, keepdim=True)
        return torch.bmm(weight.unsqueeze(1), h).squeeze(1)


class Hypernetwork(nn.Module):
    """``w = ReLU(head_agg(z))`` and ``lam = 1 / (1 + r)``, ``r = ReLU(head_mix(z))`` (paper, section 3.3).

    The variants differ in where ``r`` comes from: ``nn`` a head on the shared encoder; ``fnn`` a head
    on an encoder of its own; ``param`` one learnable ``r`` per source, without ReLU, from 0; ``fix`` a
    constant lam. A dead ``r`` means ``lam = 1``: the target's own vector alone.
    """

    r: Tensor
    fixed: Tensor

    def __init__(self, architecture: Architecture, n_sources: int, config: StephConfig, dropout: float) -> None:
        super().__init__()
        width = architecture.embed

        def head() -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_sources))

        self.variant = config.variant
        self.activation = _ACTIVATIONS[config.output]
        self.encoder = MeanEncoder(architecture)
        self.head_agg = head()
        if self.variant in ("nn", "fnn"):
            self.head_mix = head()
        if self.variant == "fnn":
            self.encoder_mix = MeanEncoder(architecture)
        elif self.variant == "param":
            self.r = nn.Parameter(torch.zeros(n_sources))
        elif self.variant == "fix":
            self.register_buffer("fixed", torch.full((n_sources,), config.fixed_lam))

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``w`` and ``lam``, each ``(n_bags, n_sources)``."""
        z = self.encoder(bags, mask)
        w = self.activation(self.head_agg(z))
        if self.variant == "fix":
            return w, self.fixed.expand_as(w)
        if self.variant == "param":
            return w, (1.0 / (1.0 + self.r)).expand_as(w)
        z_mix = self.encoder_mix(bags, mask) if self.variant == "fnn" else z
        return w, 1.0 / (1.0 + functional.relu(self.head_mix(z_mix)))
