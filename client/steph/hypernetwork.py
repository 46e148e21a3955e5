"""The hypernetworks: a shared mean-MIL encoder and two heads that predict w and lam of every source, per bag."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsteph.client.steph.components import N_COMPONENTS, Components, mean_instance
from fedsteph.client.steph.first_merge import first_merge
from fedsteph.client.steph.mean_pooling import mean_pool
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.precision import linear

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
}
# The inverse of each activation: the input that gives w.
_INVERSES: dict[str, Callable[[float], float]] = {
    "relu": lambda w: w,
    "softplus": lambda w: math.log(math.expm1(w)),
    "sigmoid": lambda w: math.log(w / (1.0 - w)),
}

_FREE = 1500.0  # how many times as fast as the head the choice among sources is learned


class MeanEncoder(nn.Module):
    """``z = mean_i ReLU(W x_i + b)``: ``(n_bags, n_instances, d) -> (n_bags, embed)``."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.embed = nn.Linear(architecture.width, architecture.embed)

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        if len(bags) == 1 and mask is None:
            return mean_pool(self.embed.weight, self.embed.bias, bags[0]).unsqueeze(0)
        h = functional.relu(linear(bags, self.embed.weight, self.embed.bias))
        return mean_instance(h, mask)


class Hypernetwork(nn.Module):
    """``w = ReLU(head_agg(z))`` and ``lam = 1 / (1 + r)``, ``r = ReLU(head_mix(z))`` (paper, section 3.3).

    The variants differ in the source of ``r``: ``nn`` uses a head on the shared encoder; ``fnn`` a head on its own
    encoder; ``param`` one learnable ``r`` per source, without ReLU, initially 0; ``fix`` a constant lam. A dead ReLU
    gives ``r = 0`` and ``lam = 1``: only the target's own vector. With ``weights: param``, w too is one learnable
    number per source, initially ``1 / n_sources``.

    ``start: local`` starts at :func:`.first_merge` and away from dead ReLUs: ``w = ReLU(w_0 + spread head_agg(z))``,
    and likewise ``r`` around ``1 / lam_0 - 1``. Differences between bags are then learned ``spread`` times as fast as
    the head, so that a small site does not memorise its bags.

    With ``routing_test``, :meth:`route_freely` replaces ``head_agg`` by a linear layer on the bag's
    :class:`Components` and a softmax: for a training part whose patients need different sources. It starts at the first
    merge too, and the w of a bag keep its sum, so routing chooses among sources and cannot change a risk by itself.

    Args:
        headed: of every source, whether its vector has a head; None: none has.
    """

    r: Tensor
    w: Tensor
    fixed: Tensor
    w_start: Tensor
    r_start: Tensor
    free: Tensor
    first_w: Tensor

    def __init__(
        self,
        architecture: Architecture,
        n_sources: int,
        config: StephConfig,
        dropout: float,
        headed: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.width, width = architecture.width, architecture.embed

        def head() -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_sources))

        self.variant, self.weights = config.variant, config.weights
        self.activation = _ACTIVATIONS[config.output]
        w, lam, before = [1.0 / n_sources] * n_sources, [1.0] * n_sources, [0.0] * n_sources
        self.spread = 1.0
        if config.start == "local":
            w, lam = first_merge(config, headed or [False] * n_sources)
            before, self.spread = [_INVERSES[config.output](value) for value in w], config.spread
        self.register_buffer("w_start", torch.tensor(before), persistent=False)
        self.register_buffer("r_start", torch.tensor([1.0 / value - 1.0 for value in lam]), persistent=False)
        if self.weights == "nn" or self.variant == "nn":
            self.encoder = MeanEncoder(architecture)
        if self.weights == "nn":
            self.head_agg = head()
        else:
            self.w = nn.Parameter(torch.tensor(w))
        if self.variant in ("nn", "fnn"):
            self.head_mix = head()
        if self.variant == "fnn":
            self.encoder_mix = MeanEncoder(architecture)
        elif self.variant == "param":
            self.r = nn.Parameter(self.r_start.clone())
        elif self.variant == "fix":
            self.register_buffer("fixed", torch.full((n_sources,), config.fixed_lam))
        self.testable = config.routing_test is not None and config.start == "local" and self.weights == "nn"
        if self.testable:
            self.register_buffer("free", torch.zeros(()))  # 1: the choice below gives w
            self.components = Components(architecture.width)
            self.choice = nn.Linear(N_COMPONENTS, n_sources)
            nn.init.zeros_(self.choice.weight)  # every source alike, as in the first merge
            nn.init.zeros_(self.choice.bias)
            self.register_buffer("first_w", torch.tensor(w), persistent=False)

    def route_freely(self) -> None:
        """Choose among sources by the fitted components from here on."""
        self.free.fill_(1.0)

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``w`` and ``lam``, each ``(n_bags, n_sources)``, of ``bags (n_bags, n_instances, d)``.

        Neighbours behind the features, where the kind of base model asks for them, are not looked at.
        """
        bags = bags[..., : self.width]
        z = self.encoder(bags, mask) if hasattr(self, "encoder") else None
        if self.weights == "param":
            w = self.w.expand(len(bags), -1)
        else:
            w = self.activation(self.w_start + self.spread * self.head_agg(z))
        if self.testable:
            apart = _FREE * self.choice(self.components(bags, mask))
            chosen = self.first_w.sum() * functional.softmax(self.first_w.log() + apart, dim=1)
            w = torch.where(self.free > 0, chosen, w)  # not an if: it would wait for the GPU
        if self.variant == "fix":
            return w, self.fixed.expand_as(w)
        if self.variant == "param":
            return w, (1.0 / (1.0 + self.r)).expand_as(w)
        z_mix = self.encoder_mix(bags, mask) if self.variant == "fnn" else z
        return w, 1.0 / (1.0 + functional.relu(self.r_start + self.spread * self.head_mix(z_mix)))
