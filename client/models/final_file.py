"""The file of a final model: several models of all of a site's patients, alike but for the seed, and their patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from fedsteph.client.models.context.cohort_survival import CohortSurvival
from fedsteph.client.models.context.quality import Quality
from fedsteph.client.models.model_file import (
    LoadedModel,
    as_tensors,
    facts_of,
    model_of,
    opened,
    reference_in,
    save,
    trained_on_in,
)
from fedsteph.client.models.model_header import (
    COHORT,
    HEADS,
    LEARNED,
    LOCAL,
    M0_HEAD,
    MEMBER,
    REFERENCE,
    SLIDES,
    SOURCE_HEADS,
    SOURCES,
    TRAINED_ON,
    Description,
    unfit,
)
from fedsteph.client.models.slide_features import SlideFeatures
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector, cut


@dataclass(frozen=True)
class Members:
    """Models that predict together, and what a final model's file holds of its training patients."""

    models: tuple[LoadedModel, ...]
    reference: np.ndarray | None = None  # percentiles 0 to 100 of their mean risks (101,); None: each model has its own
    slides: SlideFeatures | None = None
    cohort: CohortSurvival | None = None  # None: fewer than 30 patients, or a file of an earlier version
    quality: Quality | None = None  # None: not deployed by a merge, or likewise


def save_final(
    path: Path,
    models: Sequence[LoadedModel],
    vectors: Mapping[str, TaskVector],
    *,
    reference: np.ndarray,
    slides: SlideFeatures | None,
    followed_years: int,
    trained_on: TrainedOn,
    cohort: CohortSurvival | None = None,
    m0: BaseModel | None = None,
) -> None:
    """Write a final model, which stays at the site; ModelFileError if a number is not finite.

    Args:
        models: local ones, or enhanced ones with their local models.
        vectors: source -> vector that all of them merge, before any scaling; of enhanced ones only.
        m0: the M0 that they started from; needed where vectors have heads.
    """
    first = models[0]
    tensors: dict[str, Tensor] = {}
    for m, loaded in enumerate(models):
        tensors |= {f"{MEMBER}{m}.{name}": tensor for name, tensor in _of_one(loaded).items()}
    tensors |= as_tensors(REFERENCE, reference) | as_tensors(COHORT, None if cohort is None else cohort.means)
    if slides is not None:
        for name, values in zip(SLIDES, (slides.mean, slides.spread, slides.distances), strict=True):
            tensors |= as_tensors(name, values)
    kind, further = first.architecture.kind, {}
    if isinstance(first.model, Steph):
        kind, further = "steph", {"sources": list(first.sources), "steph": asdict(first.model.config)}
        tensors |= {"theta_0": first.model.mixture.theta_0}
        merged = [vectors[name] for name in first.sources]
        tensors |= {SOURCES: torch.stack([vector.flat() for vector in merged])}
        if m0 is not None and first.model.mixture.heads is not None:
            none = torch.zeros(first.architecture.embed)
            tensors[SOURCE_HEADS] = torch.stack([none if one.head is None else one.head for one in merged])
            tensors[M0_HEAD] = m0.head.weight
    facts = facts_of(kind, first.architecture, first.m0, first.extraction, followed_years)
    save(path, tensors, trained_on, **facts, **further, members=len(models))


def copy_final(made: Path, path: Path, quality: Quality) -> None:
    """Copy a final model, with how good it is in its description; errors as :func:`load_file`."""
    told, tensors = opened(made)
    with safe_open(made, framework="pt") as file:
        description = json.loads(file.metadata()["description"]) | {"quality": asdict(quality)}
    description.pop(TRAINED_ON, None)
    save(path, tensors, trained_on_in(told, tensors), **description)


def _of_one(loaded: LoadedModel) -> dict[str, Tensor]:
    """What is one member's own: its learned weights, and its local model where it is an enhanced one."""
    if not isinstance(loaded.model, Steph):
        return loaded.model.state_dict()
    assert loaded.local is not None
    learned = {f"{LEARNED}{name}": tensor for name, tensor in loaded.model.state_dict().items()}
    return learned | {f"{LOCAL}{name}": tensor for name, tensor in loaded.local.model.state_dict().items()}


def load_file(path: Path, dropout: float = 0.25) -> Members:
    """Read a model file of any kind; errors as :func:`fedsteph.client.models.model_file.load_model`."""
    told, tensors = opened(path)
    if told.members is None:
        return Members((model_of(told, tensors, path, dropout),))
    try:
        reference, slides = reference_in(tensors), _slides(tensors)
        cohort = CohortSurvival(tensors.pop(COHORT).numpy()) if COHORT in tensors else None
        models = [_member(m, told, tensors, path, dropout) for m in range(told.members)]
    except (ValueError, RuntimeError) as error:
        raise unfit(path, error) from error
    return Members(tuple(models), reference, slides, cohort, told.quality)


def _slides(tensors: dict[str, Tensor]) -> SlideFeatures | None:
    if SLIDES[0] not in tensors:
        return None
    return SlideFeatures(*(tensors.pop(name).numpy() for name in SLIDES))


def _member(m: int, told: Description, tensors: Mapping[str, Tensor], path: Path, dropout: float) -> LoadedModel:
    """One member, with its vectors made as they were for its training."""
    prefix = f"{MEMBER}{m}."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    own |= {name: tensors[name] for name in [TRAINED_ON] if told.trained_on is not None}
    if told.steph is not None:
        m0, local = BaseModel(told.architecture), BaseModel(told.architecture)
        local.load_state_dict({n.removeprefix(LOCAL): t for n, t in own.items() if n.startswith(LOCAL)})
        m0.load_state_dict({**cut(tensors["theta_0"], told.architecture), **local.head_state()})
        if M0_HEAD in tensors:
            m0.head.load_state_dict({"weight": tensors[M0_HEAD], "bias": local.head.bias})
        target = TaskVector.between(local, m0, head=True)
        sources = [TaskVector.of_flat(row, target) for row in tensors[SOURCES]]
        if SOURCE_HEADS in tensors:
            heads = [head if bool(head.any()) else None for head in tensors[SOURCE_HEADS]]
            sources = [replace(one, head=head) for one, head in zip(sources, heads, strict=True)]
        mixture = Mixture.of(m0, target, sources, normalise=told.steph.normalise)
        own |= {"theta_0": mixture.theta_0, "stack": mixture.stack}
        own |= {} if mixture.heads is None else {HEADS: mixture.heads}
    return model_of(told, own, path, dropout)
