"""R2T-MIL: instances are embedded again by attention inside regions and across them, then pooled as by ABMIL.

From the formulas of Tang et al., CVPR 2024. The bag, in its order, is laid out as a square and cut into 8 x 8 regions.
Attention works inside each region; then 8 learned summaries of every region attend to each other, and what they learn
goes back to the region's instances. Where the paper convolves the attention (EPEG), here the values are convolved, so
that memory grows with the instances alone: 3.3 M parameters at 1536 -> 512 and 384 (paper: 2.98 M).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_HEADS, _SIDE, _SUMMARIES, _KERNEL = 8, 8, 8, 15


class SelfAttention(nn.Module):
    """Attention within each of several sequences, behind a norm: ``(n_sequences, n, embed)`` -> the same."""

    def __init__(self, embed: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(embed), nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(embed, 3 * embed), nn.Linear(embed, embed)

    def forward(self, x: Tensor, position: nn.Conv1d | None = None) -> Tensor:
        """What is to be added to ``x``; ``position`` adds a convolution over the values."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=2)
        heads = [part.unflatten(2, (_HEADS, -1)).transpose(1, 2) for part in (q, k, v)]
        found = functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        if position is not None:
            found = found + position(v.transpose(1, 2)).transpose(1, 2)
        changed: Tensor = self.drop(self.out(found))
        return changed


class R2TEncoder(nn.Module):
    """Attention inside regions, across regions, and gated pooling."""

    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, embed), nn.ReLU(), nn.Dropout(dropout))
        self.regions, self.across = SelfAttention(embed, dropout), SelfAttention(embed, dropout)
        self.position = nn.Conv1d(embed, embed, _KERNEL, padding=_KERNEL // 2, groups=embed)
        self.gather = nn.Linear(embed, _SUMMARIES, bias=False)
        self.norm = nn.LayerNorm(embed)
        self.V, self.U, self.c = nn.Linear(embed, attention), nn.Linear(embed, attention), nn.Linear(attention, 1)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """One bag ``(n_instances, d)`` -> ``z (embed,)`` and attention ``(n_instances,)``."""
        x = self.embed(bag)
        regions = _regions(x)
        regions = regions + self.regions(regions, self.position)
        share = torch.softmax(self.gather(regions), dim=1)  # (n_regions, n_in_region, n_summaries)
        summaries = share.transpose(1, 2) @ regions
        learned = self.across(summaries.flatten(0, 1).unsqueeze(0))[0].unflatten(0, summaries.shape[:2])
        h = self.norm(_sequence(regions + share @ learned, len(x)))
        scores = self.c(torch.tanh(self.V(h)) * torch.sigmoid(self.U(h)))
        attention = torch.softmax(scores.squeeze(1), dim=0)
        return attention @ h, attention


def _regions(x: Tensor) -> Tensor:
    """The instances ``(n, embed)``, as a square of ``8 s x 8 s``, in its regions ``(64, s * s, embed)``.

    What the square has more, the sequence fills from its beginning, again and again.
    """
    s = max(1, math.ceil(math.sqrt(len(x)) / _SIDE))
    filled = x[torch.arange((_SIDE * s) ** 2, device=x.device) % len(x)]
    return filled.view(_SIDE, s, _SIDE, s, -1).transpose(1, 2).reshape(_SIDE**2, s * s, -1)


def _sequence(regions: Tensor, n: int) -> Tensor:
    """Inverse of :func:`_regions`: the first ``n`` of the square, row by row."""
    s = math.isqrt(regions.shape[1])
    square = regions.view(_SIDE, _SIDE, s, s, -1).transpose(1, 2)
    return square.reshape((_SIDE * s) ** 2, -1)[:n]
