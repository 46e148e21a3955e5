"""TransMIL: two layers of Nystrom attention over all instances, and between them convolutions over their square.

Shao et al., NeurIPS 2021, by torchmil, in which the attention has no output projection: 2.4 M parameters at
1536 -> 512 and not the paper's 2.9 M. The square is that of the instances' order, not of their places in the slide.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchmil.models import TransMIL

_HEADS = 8


class TransMILEncoder(nn.Module):
    """``z`` is the class token after the second layer; the approximated attention gives instances no scores."""

    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(width, embed), nn.ReLU(), nn.Dropout(dropout))
        self.model = TransMIL((width,), att_dim=embed, n_heads=_HEADS, feat_ext=first)
        self.model.classifier = nn.Identity()
        for layer in self.model.layers:
            layer.norm2 = nn.Identity()  # it belongs to an MLP that TransMIL has not

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """One bag ``(n_instances, d)`` -> ``z (embed,)`` and no scores, ``(0,)``."""
        return self.model(bag.unsqueeze(0)).reshape(-1), bag.new_zeros(0)
