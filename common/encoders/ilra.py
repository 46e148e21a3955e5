"""ILRA: instances attend to a few latent vectors and back, so that their relations have low rank.

From the formulas of Xiang and Zhang, ICLR 2023: every layer summarises the bag in 64 learned latent vectors by gated
attention, and then lets every instance attend to the summary; at the end one learned query pools the instances. All of
it is ``attention`` wide, and ``z`` is widened to ``embed``: 4.3 M parameters at 1536 -> 512 and 384 (paper: 4.21 M).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_HEADS, _LATENT, _LAYERS = 8, 64, 2


class GatedAttention(nn.Module):
    """Attention of queries to a sequence, a feed-forward layer with a residual each, and a gate by the queries."""

    def __init__(self, n: int, *, gated: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(n, n) for _ in range(4))
        self.norm_0, self.norm_1 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.gate = nn.Linear(n, n) if gated else None

    def forward(self, queries: Tensor, sequence: Tensor) -> Tensor:
        """``(1, n_queries, n)`` and ``(1, n_instances, n)`` -> ``(1, n_queries, n)``."""
        q = self.q(queries)
        attended = functional.scaled_dot_product_attention(
            _heads(q), _heads(self.k(sequence)), _heads(self.v(sequence))
        )
        found: Tensor = self.norm_0(q + attended.transpose(1, 2).flatten(2))
        found = self.norm_1(found + functional.relu(self.out(found)))
        return found if self.gate is None else found * functional.silu(self.gate(queries))

    def weights(self, queries: Tensor, sequence: Tensor) -> Tensor:
        """The attention of the first query, mean over heads: ``(n_instances,)``."""
        q, k = _heads(self.q(queries[:, :1])), _heads(self.k(sequence))
        return torch.softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, dim=3).mean(dim=1).reshape(-1)


def _heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], _HEADS, -1).transpose(1, 2)


class ILRAEncoder(nn.Module):
    """Two layers of low-rank attention and a pooling query."""

    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        n = attention
        self.embed = nn.Sequential(nn.Linear(width, n), nn.ReLU(), nn.Dropout(dropout))
        for i in range(_LAYERS):
            self.register_parameter(f"latent_{i}", nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, _LATENT, n))))
        self.query = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, n)))
        self.down = nn.ModuleList([GatedAttention(n, gated=True) for _ in range(_LAYERS)])
        self.up = nn.ModuleList([GatedAttention(n, gated=True) for _ in range(_LAYERS)])
        self.pool = GatedAttention(n, gated=False)
        self.widen = nn.Linear(n, embed)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """One bag ``(n_instances, d)`` -> ``z (embed,)`` and the pooling query's attention ``(n_instances,)``."""
        x = self.embed(bag).unsqueeze(0)
        for i in range(_LAYERS):
            x = self.up[i](x, self.down[i](getattr(self, f"latent_{i}"), x))
        return self.widen(self.pool(self.query, x)).reshape(-1), self.pool.weights(self.query, x)
