"""M0 from a file: the same weights as those that were saved, or a refusal that names both digests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from each_case import each

from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import (
    initial_model,
    m0_digest,
    model_digest,
    pin_m0,
    pinned_model,
    untrained_model,
)

SIZES = {"width": 5, "embed": 4, "attention": 3, "n_bins": 6}
M0 = untrained_model(Architecture(**SIZES), 1)
DIGEST = model_digest(M0)


def write(path: Path, tensors=None, *, kind: str = "abmil", m0: str = DIGEST) -> Path:
    description = json.dumps({"kind": kind, "m0": m0})
    content = M0.state_dict() if tensors is None else tensors
    safetensors.torch.save_file(content, path, {"format": "fedsteph/model/v1", "description": description})
    return path


def config(path: Path, **model) -> ModelConfig:
    return ModelConfig(**SIZES | {"m0": str(path), "dropout": 0.125} | model)


def test_the_file_is_m0_whatever_the_seed(tmp_path) -> None:
    named = config(write(tmp_path / "m0.safetensors"))
    for seed in (1, 2):
        found = initial_model(replace(named, m0_seed=seed))
        assert (model_digest(found), found.dropout) == (DIGEST, 0.125)
    assert m0_digest(named) == DIGEST
    assert pin_m0(replace(Config(), model=named)).model == replace(named, m0_sha256=DIGEST)
    assert model_digest(pinned_model(replace(named, m0_sha256=DIGEST))) == DIGEST


def test_every_flipped_bit_of_a_weight_is_seen(tmp_path) -> None:
    path = write(tmp_path / "m0.safetensors")
    whole = path.read_bytes()
    weights = 4 * sum(tensor.numel() for tensor in M0.state_dict().values())
    for at in range(len(whole) - weights, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ConfigError, match=f"says that its M0 has {DIGEST[:12]}"):
            m0_digest(config(path))


def test_another_m0_than_the_pinned_one_is_refused_with_both_digests(tmp_path) -> None:
    named = config(write(tmp_path / "m0.safetensors"), m0_sha256="a" * 64)
    for use in (pinned_model, initial_model, lambda model: pin_m0(replace(Config(), model=model))):
        with pytest.raises(ConfigError, match=rf"m0\.safetensors .* has {DIGEST[:12]}, and aaaaaaaaaaaa is pinned"):
            use(named)


def changed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(M0.state_dict()) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


@each(
    ("tensors", "facts", "said"),
    [
        (None, {"kind": "steph"}, "not a local model that fedsteph wrote"),
        (changed(embed__weight=torch.ones(4, 9)), {}, r"embed\.weight as \(4, 9\), and the configuration as \(4, 5\)"),
        (changed(extra=torch.ones(1)), {}, r"extra as \(1,\), and the configuration as None"),
        ({"embed.bias": torch.ones(4)}, {}, r"as None, and the configuration as"),
        (changed(head__bias=torch.ones(6).half()), {}, "other numbers than F32"),
    ],
)
def test_another_model_is_refused(tensors, facts, said, tmp_path) -> None:
    with pytest.raises(ConfigError, match=said):
        m0_digest(config(write(tmp_path / "m0.safetensors", tensors, **facts)))


def test_no_file_another_file_and_half_a_file_are_refused(tmp_path) -> None:
    path = write(tmp_path / "m0.safetensors")
    whole = path.read_bytes()
    (tmp_path / "bare.safetensors").write_bytes(safetensors.torch.save(M0.state_dict()))
    for content in (b"", b"a,b\n", whole[:200], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"m0\.safetensors: cannot be read as a file of M0"):
            m0_digest(config(path))
    for other in (tmp_path / "none.safetensors", tmp_path, tmp_path / "bare.safetensors"):
        with pytest.raises(ConfigError, match="M0"):
            m0_digest(config(other))
