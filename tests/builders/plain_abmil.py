"""ABMILs as other programs write them, in plain torch: nothing of fedsteph is in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZES = (6, 8, 5, 4)  # width, embed, attention, bins


class Gated(nn.Module):
    """Gated attention; returns one score per instance, ``(n, 1)``."""

    def __init__(self, embed: int, attention: int, dropout: bool = True) -> None:
        super().__init__()
        drop = [nn.Dropout(0.25)] if dropout else []
        self.attention_a = nn.Sequential(nn.Linear(embed, attention), nn.Tanh(), *drop)
        self.attention_b = nn.Sequential(nn.Linear(embed, attention), nn.Sigmoid(), *drop)
        self.attention_c = nn.Linear(attention, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.attention_c(self.attention_a(h) * self.attention_b(h))


class StephModel(nn.Module):
    """With the names of STEPH's released base models."""

    def __init__(self, width: int, embed: int, attention: int, n_bins: int) -> None:
        super().__init__()
        self.feat_proj = nn.Sequential(nn.Linear(width, embed), nn.ReLU())
        self.attention_net = Gated(embed, attention)
        self.pred_head = nn.Linear(embed, n_bins)

    def forward(self, bag: Tensor) -> Tensor:
        h = self.feat_proj(bag)
        return torch.sigmoid(self.pred_head((torch.softmax(self.attention_net(h), 0) * h).sum(0)))


class ClamModel(nn.Module):
    """With the names of CLAM's single-branch model; in its first versions dropout was a layer only where it was on."""

    def __init__(self, width: int, embed: int, attention: int, n_bins: int, *, dropout: bool = True) -> None:
        super().__init__()
        drop = [nn.Dropout(0.25)] if dropout else []
        gated = Gated(embed, attention, dropout)
        self.attention_net = nn.Sequential(nn.Linear(width, embed), nn.ReLU(), *drop, gated)
        self.classifiers = nn.Linear(embed, n_bins)
        self.instance_classifiers = nn.ModuleList([nn.Linear(embed, 2) for _ in range(2)])

    def forward(self, bag: Tensor) -> Tensor:
        h = self.attention_net[:-1](bag)
        return torch.sigmoid(self.classifiers((torch.softmax(self.attention_net[-1](h), 0) * h).sum(0)))


class OurNames(nn.Module):
    """With fedsteph's names, but none of its code."""

    def __init__(self, width: int, embed: int, attention: int, n_bins: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, embed)
        self.attention_V, self.attention_U = nn.Linear(embed, attention), nn.Linear(embed, attention)
        self.attention_c, self.head = nn.Linear(attention, 1), nn.Linear(embed, n_bins)

    def forward(self, bag: Tensor) -> Tensor:
        h = torch.relu(self.embed(bag))
        scores = self.attention_c(torch.tanh(self.attention_V(h)) * torch.sigmoid(self.attention_U(h)))
        return torch.sigmoid(self.head((torch.softmax(scores, 0) * h).sum(0)))


def seeded(make: type[nn.Module], seed: int = 0, sizes: tuple[int, ...] = SIZES, **how: bool) -> nn.Module:
    """A model in evaluation mode whose weights follow from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(*sizes, **how).eval()


def moved(model: nn.Module, seed: int, by: float = 0.05) -> nn.Module:
    """The same model after a training of sorts."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(by * torch.randn(weights.shape, generator=noise))
    return model
