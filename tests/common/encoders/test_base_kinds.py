"""Every kind's shapes against its module, its limits, and what it refuses; ABMIL is to the byte what it was."""

from __future__ import annotations

import hashlib
import sys

import pytest
from each_case import each
from torch import nn
from toy_kind import TOY

from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import ModelConfig, TrainingConfig
from fedsteph.common.config.run_config import load_config
from fedsteph.common.encoders.base_kinds import KINDS, kind_of
from fedsteph.common.encoders.kind import Kind, Sizes
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector

# Parameters with the head at 1536 -> 512, 384, 32; the paper's table S2 has, in the same order, 1.20, 2.95, none, 1.69,
# 4.21 and 2.98 million.
PARAMETERS = {
    "abmil": 1_197_729,
    "transmil": 2_423_840,
    "dsmil": 1_149_217,
    "patchgcn": 920_480,
    "ilra": 4_409_120,
    "r2t": 3_314_337,
}


@each("sizes", [Sizes(16, 8, 8), Sizes(8, 8, 16), Sizes(1536, 512, 384)])
def test_shapes_without_torch_are_those_of_the_model(sizes: Sizes, monkeypatch) -> None:
    monkeypatch.setitem(KINDS, TOY.name, TOY)
    assert list(KINDS) == [*PARAMETERS, TOY.name]
    for kind in KINDS.values():
        made = untrained_model(Architecture(*sizes, 32, kind.name), 0)
        own = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items() if not name.startswith("head.")}
        assert own == kind.shapes(sizes), kind.name
        assert list(made.encoder_state()) == list(kind.shapes(sizes))
        for layer in ("embed", "attention"):
            part = [name for name in own if kind.is_of(layer, name)]
            assert kind is TOY or (part and len(part) < len(own)), kind.name
        assert kind.direction is None or own[kind.direction] == (sizes.embed, sizes.width)
        if sizes.width == 1536 and kind is not TOY:
            assert sum(p.numel() for p in made.parameters()) == PARAMETERS[kind.name]


def test_abmil_is_what_it_was() -> None:
    """Digests and bytes of version 0.1, before there were other kinds."""
    assert Architecture(1536, 512, 384, 32).digest.startswith("262f8fad005e3941a96dfbd3794ed195")
    recipe = load_config().recipe
    assert digest(recipe) == digest(load_config(None, ["model.kind=abmil", "model.max_instances=null"]).recipe)
    assert "kind" not in Architecture(1536, 512, 384, 32).to_dict()
    small = Architecture(16, 8, 4, 5)
    assert model_digest(untrained_model(small, 3)).startswith("1da1038810f144fa78e01975c268db3f")
    vector = TaskVector.between(untrained_model(small, 4), untrained_model(small, 3), head=True)
    assert hashlib.sha256(write_vector(vector)).hexdigest().startswith("62327dbf0fd5cd20ea4161c66e8b47df")


@each(
    ("changed", "said"),
    [
        ({"kind": "clam"}, "kind must be one of abmil, transmil"),
        ({"kind": "transmil", "embed": 12}, "embed must be a multiple of 8 for kind transmil"),
        ({"kind": "patchgcn", "embed": 10}, "embed must be a multiple of 4 for kind patchgcn"),
        ({"kind": "ilra", "attention": 20}, "attention must be a multiple of 8 for kind ilra"),
    ],
)
def test_a_configuration_that_a_kind_cannot_have(changed: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig(**changed)


def test_what_a_kind_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no kind 'clam'"):
        kind_of("clam")
    rounded = ["model.kind=ilra", "training.precision=bfloat16"]
    with pytest.raises(ConfigError, match=r"training\.precision must be float32 for model\.kind ilra"):
        load_config(None, rounded)
    assert TrainingConfig(precision="bfloat16").precision == "bfloat16"


def test_a_missing_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmil.models", None)
    monkeypatch.delitem(sys.modules, "fedsteph.common.encoders.dsmil", raising=False)
    with pytest.raises(ConfigError) as caught:
        KINDS["dsmil"].encoder(Sizes(6, 8, 8), 0.0)
    assert "kind dsmil needs torchmil" in caught.value.what and "fedsteph[models]" in caught.value.remedy


class Normed(nn.Module):
    def __init__(self, width: int, embed: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)


def test_buffers_are_refused() -> None:
    """No task vector carries the running means of batch norm."""
    kind = Kind("normed", "normed", "a test", lambda s: {}, f"{__name__}:Normed", layers={})
    with pytest.raises(ConfigError, match=r"kind normed has buffers \(norm.running_mean"):
        kind.encoder(Sizes(6, 8, 8), 0.0)
