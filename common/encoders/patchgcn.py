"""Patch-GCN: graph convolutions over patches and their neighbours in space (Chen et al., MICCAI 2021).

Three layers of torchmil's graph convolution, with a residual each, where the paper has GENConv: a patch takes the mean
of its neighbours and itself. As there, hidden layers are a quarter of ``embed`` wide, the outputs of all layers stand
side by side, and gated attention pools them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmil.nn import AttentionPool, DeepGCNLayer, GCNConv

from fedsteph.common.encoders.base_kinds import KINDS

_LAYERS = 3
_NEIGHBOURS = KINDS["patchgcn"].neighbours


class PatchGCNEncoder(nn.Module):
    """Takes the neighbours of an instance, as rows of the bag, behind its features."""

    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        hidden = embed // (1 + _LAYERS)

        def layer() -> DeepGCNLayer:
            conv = GCNConv(hidden, hidden, learn_weights=True, add_self_loops=True)
            return DeepGCNLayer(conv, nn.LayerNorm(hidden), nn.ReLU(), block="res", dropout=dropout)

        self.embed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.layers = nn.ModuleList([layer() for _ in range(_LAYERS)])
        self.mix = nn.Sequential(nn.Linear(embed, embed), nn.ReLU(), nn.Dropout(dropout))
        self.pool = AttentionPool(embed, attention, gated=True)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """One bag ``(n_instances, d + 8)`` -> ``z (embed,)`` and attention ``(n_instances,)``."""
        features, neighbours = bag[:, :-_NEIGHBOURS], bag[:, -_NEIGHBOURS:].long()
        x = self.embed(features).unsqueeze(0)
        found, near = [x], adjacency(neighbours, x.dtype)
        for layer in self.layers:
            found.append(layer(found[-1], near))
        z, scores = self.pool(self.mix(torch.cat(found, dim=2)), return_att=True)
        return z.reshape(-1), torch.softmax(scores.reshape(-1), dim=0)


def adjacency(neighbours: Tensor, dtype: torch.dtype) -> Tensor:
    """The sparse matrix ``(1, n, n)`` that takes the mean of every row's ``neighbours (n, k)``."""
    n, k = neighbours.shape
    rows = torch.arange(n, device=neighbours.device).repeat_interleave(k)
    where = torch.stack([torch.zeros_like(rows), rows, neighbours.reshape(-1)])
    weight = torch.full((n * k,), 1.0 / k, dtype=dtype, device=neighbours.device)
    return torch.sparse_coo_tensor(where, weight, (1, n, n), check_invariants=False)
