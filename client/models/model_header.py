"""The header of a model file, which may come from a stranger: all of it is checked before anything is allocated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedsteph.client.models.context.quality import Quality
from fedsteph.client.models.trained_on import Salting
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.panel import Panel
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.recipe import MOST_MEMBERS, StephConfig
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.config.schema import build
from fedsteph.common.encoders.kind import Shape
from fedsteph.common.errors import ConfigError, FedstephError, ModelFileError
from fedsteph.common.host.checked_file import KEY
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.tensor_file import METADATA, Layout, read_header, require_layout

FORMAT = "fedsteph/model/v1"
N_PERCENTILES = 101
REFERENCE, LOCAL, LEARNED = "reference", "local.", "learned."
TRAINED_ON = "trained_on"
MEMBER, SOURCES, SLIDES = "member_", "sources", ("slides.mean", "slides.spread", "slides.distances")
COHORT = "cohort_survival"  # of a final model: CohortSurvival.means
HEADS = "heads"  # of an enhanced model whose sources share them: Mixture.heads
SOURCE_HEADS, M0_HEAD = "source_heads", "m0.head.weight"  # likewise of a final one, whose members have one each
PANEL = f"{LEARNED}panel."  # of an enhanced model that predicts with others
_PANEL_WEIGHT = f"{PANEL}weight"
_MAX_HEADER = 2**18  # bytes; a final model of 20 members has 60 kB
_MAX_SIZE = 2**20  # of a layer
REMEDY = "Give a whole copy of it, or train or merge it again"


@dataclass(frozen=True)
class Description:
    """What a file says of its model; ``sources`` and ``steph`` only of an enhanced one, ``members`` of a final one."""

    kind: str  # of the base model, or steph
    architecture: Architecture
    m0: str
    encoder: str | None
    magnification: float | None = None
    patch_size: float | None = None
    sources: tuple[str, ...] = ()
    steph: StephConfig | None = None
    followed_years: int | None = None  # as followed_years() in model_file.py; no exact time of a patient
    imported: str | None = None  # SHA-256 of the checkpoint of another program that it was made from
    trained_on: Salting | None = None  # of the digests of its training patients' IDs
    members: int | None = None  # of a final model: how many predict together
    quality: Quality | None = None  # of a final model, from when it is deployed

    @property
    def extraction(self) -> Extraction:
        """How the features of its training were made, as far as their files stated it."""
        return Extraction(self.encoder, self.magnification, self.patch_size)

    def __post_init__(self) -> None:
        enhanced = self.kind == "steph"
        if (self.steph is not None, bool(self.sources)) != (enhanced, enhanced):
            raise ValueError("sources or settings that are not those of its kind")
        if len({*self.sources}) < len(self.sources) or not all(map(SITE_NAME.fullmatch, self.sources)):
            raise ValueError("sources that are not names of sites")
        if not enhanced and self.kind != self.architecture.kind:
            raise ValueError("a kind that is not its architecture's")
        sizes = *self.architecture.sizes, self.architecture.n_bins
        if not all(1 <= size <= _MAX_SIZE for size in sizes) or (self.architecture.most_instances or 1) < 1:
            raise ValueError("sizes out of range")
        if self.followed_years is not None and not 1 <= self.followed_years <= self.architecture.n_bins:
            raise ValueError("a follow-up that is not within its bins")
        if self.imported is not None and (enhanced or re.fullmatch("[0-9a-f]{64}", self.imported) is None):
            raise ValueError("an origin that is no SHA-256, or of an enhanced model")
        if self.members is not None and not 1 <= self.members <= MOST_MEMBERS:
            raise ValueError("a number of members that is out of range")
        if self.quality is not None and self.members is None:
            raise ValueError("a quality, and is not a final one")


def checked(path: Path) -> tuple[Description, bytes]:
    """The description and the content of a file; ModelFileError, before anything is allocated, if they do not fit."""
    with path.open("rb") as file:
        beginning = file.read(8 + _MAX_HEADER)
        told = _description(path, beginning, os.fstat(file.fileno()).st_size)
        return told, beginning + file.read()


def _description(path: Path, beginning: bytes, n_bytes: int) -> Description:
    try:
        header, start = read_header(beginning, str(path), ModelFileError, _MAX_HEADER)
    except ModelFileError as error:
        what = f"cannot be read as safetensors: {error.what}"
        raise ModelFileError(what, where=path, remedy="Give a model that fedsteph wrote") from error
    metadata = header.pop(METADATA, None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFileError(f"is not a {FORMAT} file", where=path, remedy="Give a model that fedsteph wrote")
    try:
        if not metadata.keys() <= {"format", "description", KEY}:
            raise ValueError("unknown metadata")
        told = build(Description, json.loads(metadata["description"]), path)
        require_layout(header, n_bytes - start, _layout(told, header.keys()), str(path), ModelFileError)
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError, ConfigError, ModelFileError) as error:
        raise unfit(path, error) from error
    return told


def _layout(told: Description, given: Collection[str]) -> Layout:
    """Dtypes and shapes that a description asks for; ``given`` tells which of the optional ones are there."""
    panel = any(name.endswith(_PANEL_WEIGHT) for name in given)
    own, references, architecture = _own(told, panel), [REFERENCE], told.architecture
    with torch.device("meta"):  # shapes alone, without memory
        local = {f"{LOCAL}{name}": tensor for name, tensor in BaseModel(architecture).state_dict().items()}
        theta_0, stack = torch.empty(architecture.n_merged), torch.empty(len(told.sources), architecture.n_merged)
        if told.members is not None:
            own |= local if told.steph is not None else {}
            own = {f"{MEMBER}{m}.{name}": tensor for m in range(told.members) for name, tensor in own.items()}
            own |= {"theta_0": theta_0, SOURCES: stack} if told.steph is not None else {}
        elif told.steph is not None:
            own |= {"theta_0": theta_0, "stack": torch.empty(1 + len(told.sources), architecture.n_merged)}
            if any(name.startswith(LOCAL) for name in given):
                own |= local
                references.append(f"{LOCAL}{REFERENCE}")
        own |= {name: tensor for name, tensor in _heads(told).items() if name in given}
    layout: dict[str, tuple[str, Shape]] = {name: ("F32", tuple(tensor.shape)) for name, tensor in own.items()}
    layout |= {name: ("F64", (N_PERCENTILES,)) for name in references if name in given}
    if told.trained_on is not None:
        layout[TRAINED_ON] = "I64", (told.trained_on.n,)
    if told.members is not None and SLIDES[0] in given:
        shapes = (architecture.width,), (architecture.width,), (N_PERCENTILES,)
        layout |= {name: ("F64", shape) for name, shape in zip(SLIDES, shapes, strict=True)}
    if told.members is not None and COHORT in given:
        layout[COHORT] = "F64", (4, architecture.n_bins)
    return layout


def _heads(told: Description) -> dict[str, Tensor]:
    """The heads of an enhanced model's sources, which a file may have, as shapes without memory."""
    if told.steph is None:
        return {}
    n, embed = len(told.sources), told.architecture.embed
    if told.members is None:
        return {HEADS: torch.empty(2 + n, embed)}
    return {SOURCE_HEADS: torch.empty(n, embed), M0_HEAD: torch.empty(told.architecture.n_bins, embed)}


def _own(told: Description, panel: bool) -> dict[str, Tensor]:
    """What one model learned, as shapes without memory."""
    with torch.device("meta"):
        if told.steph is None:
            return BaseModel(told.architecture).state_dict()
        n = told.architecture.n_merged
        mixture = Mixture(told.architecture, torch.empty(n), torch.empty(1 + len(told.sources), n))
        model = Steph(mixture, told.steph)
        if panel:
            model.panel = Panel(len(told.sources), told.architecture.embed, told.architecture.n_bins)
        return {f"{LEARNED}{name}": tensor for name, tensor in model.state_dict().items()}


def unfit(path: Path, error: Exception) -> ModelFileError:
    reason = error.sentence if isinstance(error, FedstephError) else str(error)
    what = f"its tensors do not fit its description ({reason:.200})"
    return ModelFileError(what, where=path, remedy="Train or merge it again")
