"""M0, the initial model that every site of a federation starts from: made from a seed or a file, and pinned."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.m0_file import read_m0
from fedsteph.common.model.seeded import seeded


def untrained_model(architecture: Architecture, seed: int, dropout: float = 0.25) -> BaseModel:
    """``M0``: an untrained model on the CPU, initialised by PyTorch's defaults from ``seed``."""
    with seeded(seed):
        return BaseModel(architecture, dropout)


def model_digest(model: BaseModel) -> str:
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


def initial_model(config: ModelConfig) -> BaseModel:
    """``M0``, the untrained model from which every site of a federation starts its training.

    Args:
        config: ``model`` of a configuration, with its ``width`` (d, features per instance).

    Returns:
        a base model on the CPU, read from the file ``m0`` or made from ``m0_seed``; from a seed it is the same on every
        machine with the same version of torch.

    Raises:
        ConfigError: no width, the file is not of an ``M0``, or the digest of ``M0`` is not the pinned one.
    """
    return _m0(config) if config.m0_sha256 is None else pinned_model(config)


def pinned_model(config: ModelConfig) -> BaseModel:
    """:func:`initial_model`; raises ConfigError too if the configuration pins no digest of ``M0``."""
    m0, pinned = _m0(config), config.m0_sha256
    if (found := model_digest(m0)) != pinned:
        made = "made from model.m0_seed" if config.m0 is None else f"in {config.m0}"
        told = "none is pinned" if pinned is None else f"{pinned[:12]} is pinned"
        what = f"M0 {made} does not have the pinned digest: it has {found[:12]}, and {told}"
        remedy = "Take the torch version that the federation pinned M0 with, or its file of M0; or pin M0 anew for all"
        raise ConfigError(what, where="model.m0_sha256", remedy=remedy)
    return m0


def _m0(config: ModelConfig) -> BaseModel:
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
