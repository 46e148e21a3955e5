"""ABMIL's encoder: gated-attention pooling as a function of its weights (Ilse et al., ICML 2018).

``z = sum_i a_i h_i`` with ``h = ReLU(W x + b)``, ``a = softmax_i(c^T (tanh(V h) * sigmoid(U h)))``. STEPH uses other
weights for each bag, so each weight is either shared by all bags or has a leading ``n_bags`` dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.encoders.kind import Sizes
from fedsteph.common.model.dropout import GateDropout
from fedsteph.common.model.pooling import pool
from fedsteph.common.model.precision import factors_in, linear

ENCODER = tuple(KINDS["abmil"].shapes(Sizes(1, 1, 1)))  # the names, which no size changes


def abmil_layers(sizes: Sizes) -> dict[str, nn.Linear]:
    """The layers of an untrained encoder, by name."""
    return {
        "embed": nn.Linear(sizes.width, sizes.embed),
        "attention_V": nn.Linear(sizes.embed, sizes.attention),
        "attention_U": nn.Linear(sizes.embed, sizes.attention),
        "attention_c": nn.Linear(sizes.attention, 1),
    }


def gated_attention(
    theta: Mapping[str, Tensor], bags: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pool each bag; arguments and results as of :func:`fedsteph.common.model.encode.encode`."""
    drop = GateDropout.drawn(dropout)
    if len(bags) == 1 and mask is None:
        shared = theta["embed.weight"].dim() == 2
        weights = tuple(theta[name] if shared else theta[name][0] for name in ENCODER)
        z, attention = pool(weights, bags[0], drop)
        return z.unsqueeze(0), attention.unsqueeze(0)
    h = functional.relu(_linear(theta, "embed", bags))  # (n_bags, n_instances, embed)
    gated = torch.tanh(_linear(theta, "attention_V", h)) * torch.sigmoid(_linear(theta, "attention_U", h))
    if drop is not None:
        gated = gated * (drop.keep(gated).to(gated.dtype) * drop.scale)
    with factors_in(torch.float32):  # as in pool(): there are few scores, and exp() amplifies their rounding errors
        scores = _linear(theta, "attention_c", gated).squeeze(-1)  # (n_bags, n_instances)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    attention = torch.softmax(scores, dim=-1)
    return torch.bmm(attention.unsqueeze(1), h).squeeze(1), attention.detach()


def _linear(theta: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(x, theta[f"{name}.weight"], theta[f"{name}.bias"])
