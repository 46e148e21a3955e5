"""Representation surgery (Yang et al., ICML 2024): a small adapter that pulls a merged model's slide vectors back
towards the target's own model's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.batch import Batch
from common.abmil import ABMIL, encode


class Surgery(nn.Module):
    """``z' = z - Up ReLU(Down z)``, trained so that ``|z' - z_local|`` is small (mean over the vector, L1)."""

    def __init__(self, local: ABMIL, rank: int) -> None:
        super().__init__()
        embed = local.architecture.embed
        self.down = nn.Linear(embed, rank, bias=False)
        self.up = nn.Linear(rank, embed, bias=False)
        self._local = {name: tensor.detach() for name, tensor in local.encoder_state().items()}
        self._known: dict[str, Tensor] = {}  # the local model's slide vectors, which do not change

    def forward(self, z: Tensor) -> Tensor:
        corrected: Tensor = z - self.up(functional.relu(self.down(z)))
        return corrected

    def distance(self, z: Tensor, batch: Batch) -> Tensor:
        """How far corrected slide vectors are from the local model's, ``(n_bags,)``."""
        apart: Tensor = self(z) - self._target(batch)
        return apart.abs().mean(dim=1)

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        if not all(key in self._known for key in batch.ids):
            local = {name: tensor.to(batch.bags.device) for name, tensor in self._local.items()}
            self._known |= dict(zip(batch.ids, encode(local, batch.bags, batch.mask)[0], strict=True))
        return torch.stack([self._known[key] for key in batch.ids])
