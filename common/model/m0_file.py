"""Reads M0 from a model file, which names the digest of the M0 that its model started from: of M0, its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedsteph.common.encoders.base_kinds import KINDS
from fedsteph.common.encoders.kind import Shape
from fedsteph.common.errors import ConfigError

_REMEDY = "Give the federation's file of M0, as 'fedsteph model m0' or 'fedsteph model import' writes it"


def read_m0(path: Path, shapes: Mapping[str, Shape]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file of M0 by name, float32 on the CPU, and the digest that the file gives of its M0.

    Nothing is read but the header before all names and shapes are the expected ones.

    Args:
        shapes: of every tensor of the configuration's model, by name.

    Raises:
        ConfigError: no such file, no file of a local model, or a model of another architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = _told(file.metadata(), path)
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
            if {part.get_dtype() for part in found.values()} != {"F32"}:
                raise ConfigError("is no file of an M0: it holds other numbers than F32", where=path, remedy=_REMEDY)
            _require_shapes({name: tuple(part.get_shape()) for name, part in found.items()}, shapes, path)
            return {name: file.get_tensor(name) for name in shapes}, told
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot be read as a file of M0 ({reason})", where=path, remedy=_REMEDY) from error


def _told(metadata: Mapping[str, str] | None, path: Path) -> str:
    try:
        told = json.loads((metadata or {})["description"])
        if told["kind"] not in KINDS:
            raise ValueError("an enhanced model")
        return str(told["m0"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = "is no file of an M0 (it is not a local model that fedsteph wrote)"
        raise ConfigError(what, where=path, remedy=_REMEDY) from error


def _require_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], path: Path) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            what = f"has the tensor {name[:64]} as {found.get(name)}, and the configuration as {expected.get(name)}"
            raise ConfigError(
                what, where=path, remedy="Set model.kind, .width, .embed, .attention and .n_bins to those of M0"
            )
