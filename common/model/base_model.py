"""The base model that sites train and merge: an encoder of any kind, then one hazard per yearly bin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsteph.common.errors import ConfigError
from fedsteph.common.model.abmil import abmil_layers
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.encode import encode


class BaseModel(nn.Module):
    """The encoder, which makes one vector ``z`` of the instances of a bag, and the head for its hazards.

    ``hazard_j = sigmoid(head(z)_j)``. An ABMIL has 1,197,729 parameters at 1536 -> 512, 384, 32. Raises ConfigError if
    the kind needs a package that is not installed.
    """

    def __init__(self, architecture: Architecture, dropout: float = 0.25) -> None:
        super().__init__()
        self.architecture = architecture
        self.dropout = dropout
        kind, sizes = architecture.encoder_kind, architecture.sizes
        for name, part in ({"encoder": kind.encoder(sizes, dropout)} if kind.module else abmil_layers(sizes)).items():
            self.add_module(name, part)
        self.head = nn.Linear(architecture.embed, architecture.n_bins)

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder tensors, in their fixed order."""
        state = dict(self.named_parameters())
        return {name: state[name] for name in self.architecture.encoder_shapes}

    def head_state(self) -> dict[str, Tensor]:
        """The two tensors of the head. Only the mean of the weights over the bins may leave a site."""
        return {"head.weight": self.head.weight.detach(), "head.bias": self.head.bias.detach()}

    def risk_direction(self) -> Tensor:
        """The direction in which a patient's risk grows: the head's weights, mean over bins; ``(embed,)``, on the CPU.

        A patient's score is the mean over bins of the logits (:func:`fedsteph.client.training.cox.log_odds`), so it is
        ``z . direction`` and a constant.
        """
        return self.head.weight.detach().cpu().mean(dim=0)

    @torch.no_grad()
    def attention(self, bag: Tensor) -> Tensor:
        """Attention weights ``(n_instances,)`` of one bag ``(n_instances, d)``, without dropout; they sum to 1.

        Raises:
            ConfigError: the kind gives instances no scores.
        """
        return scores_of(self.architecture, encode(self.architecture, self.encoder_state(), bag.unsqueeze(0))[1][0])

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hazards of a batch of bags. Returns hazards ``(n_bags, n_bins)`` in (0, 1).

        Args:
            bags: ``(n_bags, n_instances, d)``, padded if the bags differ in size.
            mask: ``(n_bags, n_instances)``, True at real instances; None without padding.
        """
        dropout = self.dropout if self.training else 0.0
        z, _ = encode(self.architecture, self.encoder_state(), bags, mask, dropout)
        return torch.sigmoid(self.head(z))


def scores_of(architecture: Architecture, scores: Tensor) -> Tensor:
    """The instances' scores of a bag, ``(n_instances,)``; ConfigError if the kind has none."""
    if not architecture.encoder_kind.scores:
        what = f"{architecture.encoder_kind.title} does not say how much each instance counts"
        raise ConfigError(what, where="model.kind", remedy="Take a model of another kind, such as abmil")
    return scores
