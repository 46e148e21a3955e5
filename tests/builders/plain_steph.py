"""STEPH as its description reads, without a thought for speed: the oracle that fast paths are held against.

Every parameter is merged in a loop of its own from all sources of each bag, every bag of a step keeps its graph, and
one backward pass follows. Nothing here is shared with the product but names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

ENCODER = ("embed", "attention_V", "attention_U", "attention_c")


class PlainAbmil(nn.Module):
    """Gated-attention MIL over one bag ``(n_instances, d)``."""

    def __init__(self, width: int, embed: int, attention: int, n_bins: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.embed = nn.Linear(width, embed)
        self.attention_V = nn.Linear(embed, attention)
        self.attention_U = nn.Linear(embed, attention)
        self.attention_c = nn.Linear(attention, 1)
        self.head = nn.Linear(embed, n_bins)

    def forward(self, bag: Tensor) -> Tensor:
        theta = {name: p for name, p in self.named_parameters() if not name.startswith("head")}
        return torch.sigmoid(self.head(pooled(theta, bag, self.dropout if self.training else 0.0)))


class PlainSteph(nn.Module):
    """The hypernetworks, the merge and a head over one bag; ``sources`` are dicts of encoder tensors."""

    def __init__(
        self,
        theta_0: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        sources: Sequence[Mapping[str, Tensor]],
        *,
        n_bins: int,
        K: int = 5,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.theta_0, self.target, self.sources, self.K, self.dropout = theta_0, target, sources, K, dropout
        embed, width = theta_0["embed.weight"].shape

        def head() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(embed, embed), nn.ReLU(), nn.Dropout(dropout), nn.Linear(embed, len(sources))
            )

        self.encoder = nn.Linear(width, embed)
        self.head_agg, self.head_mix = head(), head()
        self.head = nn.Linear(embed, n_bins)

    def route(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        z = functional.relu(self.encoder(bag)).mean(dim=0)
        return functional.relu(self.head_agg(z)), 1.0 / (1.0 + functional.relu(self.head_mix(z)))

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Hazards ``(n_bins,)`` and the penalty at gamma 0.05, beta 0.05, balanced."""
        w, lam = self.route(bag)
        kept = torch.topk(w, min(self.K, len(w))).indices
        theta = {}
        for name, start in self.theta_0.items():
            mixed = [lam[k] * self.target[name] + (1 - lam[k]) * source[name] for k, source in enumerate(self.sources)]
            stacked = torch.stack(mixed)
            weights = w[kept].reshape(-1, *[1] * start.dim())
            theta[name] = start + (weights * stacked[kept]).sum(dim=0)
        hazards = torch.sigmoid(self.head(pooled(theta, bag, self.dropout if self.training else 0.0)))
        agg = w.logsumexp(dim=0).square() + w[kept].mean()
        return hazards, 0.05 * agg + 0.05 * lam[kept].square().mean()


def pooled(theta: Mapping[str, Tensor], bag: Tensor, dropout: float) -> Tensor:
    """The slide vector ``(embed,)`` of one bag under the weights ``theta``."""
    h = functional.relu(functional.linear(bag, theta["embed.weight"], theta["embed.bias"]))
    a = torch.tanh(functional.linear(h, theta["attention_V.weight"], theta["attention_V.bias"]))
    b = torch.sigmoid(functional.linear(h, theta["attention_U.weight"], theta["attention_U.bias"]))
    a, b = functional.dropout(a, dropout), functional.dropout(b, dropout)
    scores = functional.linear(a * b, theta["attention_c.weight"], theta["attention_c.bias"])
    return torch.softmax(scores.squeeze(1), dim=0) @ h


def nll(hazards: Tensor, y: int, e: int, alpha: float = 0.5) -> Tensor:
    """One bag's negative log-likelihood, in nats, over yearly bins."""
    survival = torch.cumprod(1 - hazards, dim=0)
    before = survival[y - 1] if y > 0 else torch.ones(())
    if e:
        return -(before.clamp(min=1e-7).log() + hazards[y].clamp(min=1e-7).log())
    return -(1 - alpha) * survival[y].clamp(min=1e-7).log()


def step_loss(model: nn.Module, bags: Sequence[Tensor], bins: Sequence[int], events: Sequence[int]) -> Tensor:
    """The mean loss of one step, all bags' graphs kept."""
    losses = []
    for bag, y, e in zip(bags, bins, events, strict=True):
        out = model(bag)
        hazards, penalty = out if isinstance(out, tuple) else (out, 0.0)
        losses.append(nll(hazards, y, e) + penalty)
    return torch.stack(losses).mean()
