"""Reads an ABMIL that another program trained, from a checkpoint that may come from a stranger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from fedsteph.client.data.torch_file import LEGACY_MAGIC, ZIP_MAGIC, load_plain
from fedsteph.client.models.foreign_layouts import LAYOUTS, PREFIXES, WRAPPERS, Layout
from fedsteph.client.models.model_file import load_base
from fedsteph.client.models.model_header import FORMAT
from fedsteph.common.config.core_yaml import cut
from fedsteph.common.config.recipe import ModelConfig
from fedsteph.common.errors import FeatureFileError, ModelFileError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel

_MOST_BYTES = 2**32
_REMEDY = "Give the state_dict of an ABMIL with gated attention, as torch.save(model.state_dict(), path) writes it"


@dataclass(frozen=True)
class Foreign:
    """A model from elsewhere, in evaluation mode on the CPU."""

    model: BaseModel
    layout: str  # whose tensor names the file has
    passed_over: tuple[str, ...]  # tensors of that layout that are no part of an ABMIL
    sha256: str  # of the file


def read_foreign(path: Path, layout: str = "auto") -> Foreign:
    """Read a checkpoint; its sizes are those of the model, and float16, bfloat16 and float64 become float32.

    Args:
        path: of ``torch.save`` or safetensors; a mapping of tensors by name, or one under ``state_dict``,
            ``model_state_dict`` or ``model``.
        layout: ``ours``, ``steph`` or ``clam`` (:mod:`fedsteph.client.models.foreign_layouts`), or ``auto``.

    Raises:
        ModelFileError: the file is damaged, holds code (none of it is run), has the names of no known layout, tensors
            that are no part of it, other shapes than this architecture's, or NaN or Inf.
    """
    named = _without_prefixes(_tensors(_unwrapped(_content(path)), path))
    chosen = _layout(named, layout, path)
    extra = sorted(named.keys() - set(chosen.tensors.values()))
    if unknown := [name for name in extra if chosen.extra.fullmatch(name) is None]:
        what = f"has tensors that are no part of an ABMIL: {_listed(unknown)}"
        raise ModelFileError(what, where=path, remedy="It is another model; or save it without them")
    tensors = {own: named[other] for own, other in chosen.tensors.items()}
    architecture = _architecture(tensors, path)
    model = BaseModel(architecture)
    model.load_state_dict({name: _float32(name, tensor, path) for name, tensor in tensors.items()})
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Foreign(model.eval(), chosen.name, tuple(extra), digest)


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelFileError("is larger than 4 GiB, and no ABMIL", where=path, remedy=_REMEDY)
        if not path.is_file():
            raise ModelFileError("is no file", where=path, remedy=_REMEDY)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                ours = (file.metadata() or {}).get("format") == FORMAT
            return load_base(path).state_dict() if ours else safetensors.torch.load_file(path)
        with path.open("rb") as opened:
            head = opened.read(len(LEGACY_MAGIC))
        if not head.startswith(ZIP_MAGIC) and head != LEGACY_MAGIC:
            what = "is neither a file of torch.save nor one of safetensors"
            raise ModelFileError(what, where=path, remedy=_REMEDY)
        return load_plain(path, _REMEDY)
    except FeatureFileError as error:
        raise ModelFileError(error.what, where=path, remedy=_REMEDY) from error
    except OSError as error:
        remedy = "Check that it exists and that this user may read it"
        raise ModelFileError(f"cannot be opened ({error.strerror})", where=path, remedy=remedy) from error
    except ModelFileError:
        raise
    except Exception as error:  # torch and safetensors raise many types over a damaged file
        raise ModelFileError("is damaged or no checkpoint", where=path, remedy="Copy it again") from error


def _unwrapped(content: Any) -> Any:
    for _ in WRAPPERS:
        inner = [key for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        content = content[inner[0]] if inner else content
    return content


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise ModelFileError("holds no mapping of tensors by name", where=path, remedy=_REMEDY)
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"holds {cut(repr(name), 60)}, which is no named tensor"
            raise ModelFileError(what, where=path, remedy=_REMEDY)
    return dict(content)


def _without_prefixes(named: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (*PREFIXES, *PREFIXES):
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _layout(named: Mapping[str, Tensor], wanted: str, path: Path) -> Layout:
    candidates = [layout for layout in LAYOUTS if wanted in ("auto", layout.name)]
    missing = {layout: [name for name in layout.tensors.values() if name not in named] for layout in candidates}
    best = min(candidates, key=lambda layout: len(missing[layout]))
    if missing[best]:
        closest = "" if wanted != "auto" else ", which is the closest"
        lacks = f"lacks {_listed(missing[best])} of the layout {best.name}{closest}"
        what = f"{lacks}; it has {_listed(sorted(named))}"
        raise ModelFileError(what, where=path, remedy="Only an ABMIL with gated attention can be imported")
    return best


def _architecture(tensors: Mapping[str, Tensor], path: Path) -> Architecture:
    """The sizes that the shapes tell; ModelFileError if the shapes do not fit together, or a size is out of range."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in ("embed.weight", "attention_V.weight", "head.weight"):
        if len(found[name]) != 2:
            raise ModelFileError(f"its layer {name} has the shape {found[name]}", where=path, remedy=_REMEDY)
    (embed, width), attention, n_bins = found["embed.weight"], found["attention_V.weight"][0], found["head.weight"][0]
    try:
        made = Architecture.of(ModelConfig(width=width, embed=embed, attention=attention, n_bins=n_bins))
    except ValueError as error:
        raise ModelFileError(f"its sizes cannot be: {error}", where=path, remedy=_REMEDY) from error
    expected = made.encoder_shapes | {"head.weight": (n_bins, embed), "head.bias": (n_bins,)}
    for name, shape in expected.items():
        if found[name] != shape:
            what = (
                f"is of another architecture: {name} has the shape {found[name]}, and its other layers ask for {shape}"
            )
            raise ModelFileError(what, where=path, remedy="Only an ABMIL of one gated attention can be imported")
    return made


def _float32(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        what = f"{name} is no dense tensor of floating-point numbers ({tensor.dtype})"
        raise ModelFileError(what, where=path, remedy=_REMEDY)
    # An expanded view can repeat a few stored values so often that a copy would fill the memory.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise ModelFileError(f"{name} has fewer values than its shape", where=path, remedy=_REMEDY)
    values = tensor.detach().to(torch.float32, copy=True)
    if not bool(torch.isfinite(values).all()):
        what = f"{name} holds NaN, Inf or a number too large for float32"
        raise ModelFileError(what, where=path, remedy="Give a checkpoint of a training that did not diverge")
    return values


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(cut(name) for name in names[:3]) + more
