"""ABMIL, the base model: gated-attention pooling, then one hazard per yearly bin (Ilse et al., ICML 2018).

The encoder is a function of its weights, because STEPH uses different weights for each bag: :func:`encode` takes each
weight either shared by all bags or with a leading ``n_bags`` dimension.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.dropout import GateDropout
from fedsteph.common.model.encoder_shapes import encoder_shapes
from fedsteph.common.model.m0_file import read_m0
from fedsteph.common.model.pooling import pool
from fedsteph.common.model.precision import factors_in, linear
from fedsteph.common.model.seeded import seeded

ENCODER = tuple(encoder_shapes(1, 1, 1))  # the names, which no size changes


@dataclass(frozen=True)
class Architecture:
    """Layer sizes of an ABMIL; only models with equal sizes can be merged."""

    width: int  # d, features per instance
    embed: int
    attention: int
    n_bins: int

    @classmethod
    def of(cls, config: ModelConfig) -> Architecture:
        """The architecture of a configuration. Raises ConfigError if the configuration has no width."""
        if config.width is None:
            raise ConfigError(
                "the feature width is not set", where="model.width", remedy="Set it to the encoder's width"
            )
        return cls(config.width, config.embed, config.attention, config.n_bins)

    @property
    def encoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the 8 encoder tensors, which are merged, in their fixed order."""
        return encoder_shapes(self.width, self.embed, self.attention)

    @property
    def n_merged(self) -> int:
        """P, the number of parameters in the 8 encoder tensors, and so in a task vector."""
        return sum(math.prod(shape) for shape in self.encoder_shapes.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the sizes and of the encoder tensors' names and shapes."""
        schema = {"sizes": asdict(self), "tensors": list(self.encoder_shapes.items())}
        return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


class ABMIL(nn.Module):
    """The encoder, which pools the instances ``x_i`` of a bag into one vector ``z``, and the head for its hazards.

    ``z = sum_i a_i h_i`` with ``h = ReLU(W x + b)``, ``a = softmax_i(c^T (tanh(V h) * sigmoid(U h)))``;
    ``hazard_j = sigmoid(head(z)_j)``. It has 1,197,729 parameters at 1536 -> 512, 384, 32.
    """

    def __init__(self, architecture: Architecture, dropout: float = 0.25) -> None:
        super().__init__()
        self.architecture = architecture
        self.dropout = dropout
        self.embed = nn.Linear(architecture.width, architecture.embed)
        self.attention_V = nn.Linear(architecture.embed, architecture.attention)
        self.attention_U = nn.Linear(architecture.embed, architecture.attention)
        self.attention_c = nn.Linear(architecture.attention, 1)
        self.head = nn.Linear(architecture.embed, architecture.n_bins)

    def encoder_state(self) -> dict[str, Tensor]:
        """The 8 encoder tensors, in their fixed order."""
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
        """Attention weights ``(n_instances,)`` of one bag ``(n_instances, d)``, without dropout; they sum to 1."""
        return encode(self.encoder_state(), bag.unsqueeze(0))[1][0]

    def forward(self, bags: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hazards of a batch of bags. Returns hazards ``(n_bags, n_bins)`` in (0, 1).

        Args:
            bags: ``(n_bags, n_instances, d)``, padded if the bags differ in size.
            mask: ``(n_bags, n_instances)``, True at real instances; None without padding.
        """
        z, _ = encode(self.encoder_state(), bags, mask, self.dropout if self.training else 0.0)
        return torch.sigmoid(self.head(z))


def encode(
    theta: Mapping[str, Tensor], bags: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pool each bag into one vector, with one set of weights for all bags or one per bag.

    Returns bag vectors ``z`` ``(n_bags, embed)``, and attention ``(n_bags, n_instances)``, which sums to 1 per bag and
    is detached (no gradient).

    Args:
        theta: the 8 encoder tensors, each as in :attr:`Architecture.encoder_shapes`, or each with a leading
            ``n_bags`` dimension.
        bags: ``(n_bags, n_instances, d)``.
        mask: ``(n_bags, n_instances)``, True at real instances; None without padding.
        dropout: dropout probability of each of the two attention branches.
    """
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


def untrained_model(architecture: Architecture, seed: int, dropout: float = 0.25) -> ABMIL:
    """``M0``: an untrained ABMIL on the CPU, initialised by PyTorch's defaults from ``seed``."""
    with seeded(seed):
        return ABMIL(architecture, dropout)


def model_digest(model: ABMIL) -> str:
    """SHA-256 over the names, shapes and little-endian float32 values of all tensors, including the head."""
    hasher = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        hasher.update(f"{name}{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().numpy().astype("<f4").tobytes())
    return hasher.hexdigest()


def m0_digest(config: ModelConfig) -> str:
    """The digest of ``M0`` as made or read on this machine; ConfigError: no width, or its file is not of an M0."""
    return model_digest(_m0(config))


def pin_m0(config: Config) -> Config:
    """The configuration with this machine's M0 pinned. ConfigError: no width or M0, or another digest is pinned."""
    if config.model.width is None:
        raise ConfigError("must be given", where="model.width", remedy="Set it to the width of the sites' features")
    pinned = config.model.m0_sha256 or m0_digest(config.model)
    model = replace(config.model, m0_sha256=pinned)
    pinned_model(model)
    return replace(config, model=model)


def initial_model(config: ModelConfig) -> ABMIL:
    """``M0``, the untrained model from which every site of a federation starts its training.

    Args:
        config: ``model`` of a configuration, with its ``width`` (d, features per instance).

    Returns:
        an ABMIL on the CPU, read from the file ``m0`` or made from ``m0_seed``; from a seed it is the same on every
        machine with the same version of torch.

    Raises:
        ConfigError: no width, the file is not of an ``M0``, or the digest of ``M0`` is not the pinned one.
    """
    return _m0(config) if config.m0_sha256 is None else pinned_model(config)


def pinned_model(config: ModelConfig) -> ABMIL:
    """:func:`initial_model`; raises ConfigError too if the configuration pins no digest of ``M0``."""
    m0, pinned = _m0(config), config.m0_sha256
    if (found := model_digest(m0)) != pinned:
        made = "made from model.m0_seed" if config.m0 is None else f"in {config.m0}"
        told = "none is pinned" if pinned is None else f"{pinned[:12]} is pinned"
        what = f"M0 {made} does not have the pinned digest: it has {found[:12]}, and {told}"
        remedy = "Take the torch version that the federation pinned M0 with, or its file of M0; or pin M0 anew for all"
        raise ConfigError(what, where="model.m0_sha256", remedy=remedy)
    return m0


def _m0(config: ModelConfig) -> ABMIL:
    """``M0``, whatever digest is pinned: from its file if there is one, else from the seed."""
    architecture = Architecture.of(config)
    model = untrained_model(architecture, config.m0_seed, config.dropout)
    if config.m0 is None:
        return model
    tensors, told = read_m0(Path(config.m0), {n: tuple(t.shape) for n, t in model.state_dict().items()})
    model.load_state_dict(tensors)
    if (found := model_digest(model)) != told:
        what = f"its weights have the digest {found[:12]}, and it says that its M0 has {told[:12]}"
        remedy = "It is damaged, or a trained model: give a whole copy of M0, as 'fedsteph model m0' writes it"
        raise ConfigError(what, where=config.m0, remedy=remedy)
    return model
