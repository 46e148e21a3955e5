"""Encodes bags with given weights, whatever the kind of base model: one set of weights for all bags, or one per bag."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedsteph.common.model.abmil import gated_attention
from fedsteph.common.model.architecture import Architecture

_PREFIX = "encoder."  # of the names of an encoder that is a module


def encode(
    architecture: Architecture,
    theta: Mapping[str, Tensor],
    bags: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Encode each bag as one vector, with one set of weights for all bags or one per bag.

    A bag's result does not depend on the bags beside it: modules see every bag alone, without padding.

    Returns bag vectors ``z`` ``(n_bags, embed)``; and the instances' scores ``(n_bags, n_instances)``, which sum to 1
    per bag and are detached (no gradient), or ``(n_bags, 0)`` if the kind has none.

    Args:
        theta: the encoder tensors, each as in :attr:`Architecture.encoder_shapes`, or each with a leading ``n_bags``
            dimension.
        bags: ``(n_bags, n_instances, d)``; behind the features stand the neighbours that the kind asks for.
        mask: ``(n_bags, n_instances)``, True at real instances; None without padding.
        dropout: dropout probability of the encoder's hidden layers.
    """
    if not architecture.encoder_kind.module:
        return gated_attention(theta, bags, mask, dropout)
    module = _skeleton(architecture, dropout)
    own = {name.removeprefix(_PREFIX): tensor for name, tensor in theta.items()}
    name, tensor = next(iter(theta.items()))
    per_bag = tensor.dim() > len(architecture.encoder_shapes[name])

    def one(weights: Mapping[str, Tensor], bag: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = functional_call(module, dict(weights), (bag,), strict=True)
        return found

    if mask is None and len(bags) > 1 and architecture.encoder_kind.stacks:
        z, scores = vmap(one, (0 if per_bag else None, 0), randomness="different")(own, bags)
        return z, scores.detach()
    found = [
        one({n: w[i] for n, w in own.items()} if per_bag else own, bag if mask is None else bag[mask[i]])
        for i, bag in enumerate(bags)
    ]
    z = torch.stack([z for z, _ in found])
    if not architecture.encoder_kind.scores or mask is None:
        return z, torch.stack([scores for _, scores in found]).detach()
    scores = torch.zeros(mask.shape, dtype=z.dtype, device=z.device)
    scores[mask] = torch.cat([scores for _, scores in found]).detach()
    return z, scores


@cache
def _skeleton(architecture: Architecture, dropout: float) -> nn.Module:
    """The encoder without weights of its own: its parameters take no memory and are never used."""
    with torch.device("meta"):
        made: nn.Module = architecture.encoder_kind.encoder(architecture.sizes, dropout)
    return made.train(dropout > 0.0)
