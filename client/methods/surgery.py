"""Representation surgery (Yang et al., ICML 2024): an adapter moves merged slide vectors to the local model's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsteph.client.training.batch import Batch, recalled
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.encode import encode


class Surgery(nn.Module):
    """``z' = z - Up ReLU(Down z)``, trained for a small L1 distance ``mean |z' - z_local|``."""

    def __init__(self, local: BaseModel, rank: int) -> None:
        super().__init__()
        embed = local.architecture.embed
        self.down = nn.Linear(embed, rank, bias=False)
        self.up = nn.Linear(rank, embed, bias=False)
        self._architecture = local.architecture
        self._local = {name: tensor.detach() for name, tensor in local.encoder_state().items()}
        self._known: dict[str, Tensor] = {}  # the local model's slide vectors, computed once

    def forward(self, z: Tensor) -> Tensor:
        """Corrected slide vectors, ``(n_bags, embed)``."""
        corrected: Tensor = z - self.up(functional.relu(self.down(z)))
        return corrected

    def distance(self, z: Tensor, batch: Batch) -> Tensor:
        """Mean absolute difference of corrected slide vectors from the local model's, ``(n_bags,)``."""
        apart: Tensor = self(z) - recalled(self._known, batch, self._represent)
        return apart.abs().mean(dim=1)

    @torch.no_grad()
    def _represent(self, batch: Batch) -> Tensor:
        local = {name: tensor.to(batch.bags.device) for name, tensor in self._local.items()}
        return encode(self._architecture, local, batch.bags, batch.mask)[0]
