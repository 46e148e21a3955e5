"""DSMIL: attention by likeness to the instance with the highest score (Li et al., CVPR 2021), by torchmil.

DSMIL averages the bag's prediction with that of the highest-scoring instance, and trains both. Here one head follows
``z``, so the highest score enters ``z`` along a learned direction: it takes part in the prediction, and is trained.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchmil.models import DSMIL


class DSMILEncoder(nn.Module):
    """``z = sum_i a_i h_i + u max_i s_i``: attention ``a``, instances' scores ``s`` and a learned direction ``u``."""

    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(width, embed), nn.ReLU(), nn.Dropout(dropout))
        self.model = DSMIL((width,), att_dim=attention, nonlinear_q=True, feat_ext=first)
        self.model.bag_classifier = nn.Identity()
        self.critical = nn.Linear(1, embed, bias=False)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """One bag ``(n_instances, d)`` -> ``z (embed,)`` and attention ``(n_instances,)``."""
        z, attention, scores = self.model(bag.unsqueeze(0), return_att=True, return_inst_pred=True)
        return z.reshape(-1) + self.critical(scores.amax(dim=1)).reshape(-1), attention.reshape(-1)
