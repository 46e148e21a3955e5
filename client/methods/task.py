"""The interface of comparators: data and vectors in (:class:`Task`), a trained model out (:class:`Trained`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.evaluation.inner_folds import InnerFold, inner_folds
from fedsteph.client.panel.fit_panel import PanelMembers
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.loop import derive_seed
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class Task:
    """One fold of one target, and everything that a method may use for it; this excludes test patients."""

    workspace: Workspace
    fold: int
    vectors: Mapping[str, TaskVector]  # source -> received task vector
    folder: Path  # where a method may save unfinished work
    kin: frozenset[str] = frozenset()  # names of the sources of the target's cancer, as far as both state theirs
    globals: Mapping[str, TaskVector] = field(default_factory=dict)  # method -> encoder of its rounds, minus M0

    @property
    def recipe(self) -> Recipe:
        """How to train: the federation's recipe."""
        return self.workspace.recipe

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        return self.workspace.device

    @property
    def sources(self) -> list[TaskVector]:
        """The received vectors, in the order of their sources' names."""
        return list(self.vectors.values())

    @property
    def mixed(self) -> dict[str, TaskVector]:
        """The received vectors as STEPH mixes them."""
        return as_mixed(self.vectors, self.kin)

    @cached_property
    def members(self) -> PanelMembers:
        """The local and the received models over the training patients, as a panel's members."""
        return PanelMembers.of(self.local, self.vectors, self.kin, self.train, self.recipe, self.device)

    @cached_property
    def train(self) -> Cohort:
        """The training patients of the fold."""
        return self.workspace.train_part(self.fold)

    @cached_property
    def m0(self) -> BaseModel:
        """The federation's initial model."""
        return pinned_model(self.recipe.model)

    @cached_property
    def local(self) -> BaseModel:
        """The target's own model of this fold."""
        return self.workspace.local_model(self.fold)

    @cached_property
    def own(self) -> TaskVector:
        """The target's own vector of this fold."""
        return TaskVector.between(self.local, self.m0)

    @cached_property
    def inner(self) -> list[InnerFold]:
        """Inner folds of the training patients, for all choices that a method makes."""
        return inner_folds(self.workspace, self.fold)

    def seed(self, method: str) -> int:
        """A seed that differs per method and fold."""
        return derive_seed(self.recipe.training.seed, method, f"fold {self.fold}")

    def run(self, method: str, progress: Progress) -> TrainingRun:
        """How to carry out a method's training: on the site's device, with a checkpoint in this task's folder."""
        return TrainingRun(self.device, self.folder / f"{method}.checkpoint", progress)


@dataclass(frozen=True)
class Trained:
    """A method's model (bags in, hazards out), its number of parameters learned at the target, and other findings."""

    model: nn.Module
    learnable: int
    notes: Mapping[str, Any] = field(default_factory=dict)


Method = Callable[[Task, Progress], Trained]
LOCAL_BECAUSE = "local_because"  # note of a method that gives the local model: why


def local_alone(task: Task, why: str) -> Trained:
    """The target's own model, which stands for a method that has nothing to merge."""
    return Trained(task.local, learnable_parameters(task.local), {LOCAL_BECAUSE: why})


def as_mixed(vectors: Mapping[str, TaskVector], kin: frozenset[str]) -> dict[str, TaskVector]:
    """The vectors without the heads of other cancers: merged, those win nothing; they predict in the panel."""
    return {name: vector if name in kin else vector.without_head() for name, vector in vectors.items()}


def learnable_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def work_on(
    vectors: Mapping[str, TaskVector], kin: frozenset[str], globals_by_fold: Sequence[Mapping[str, TaskVector]] = ()
) -> str:
    """What a folder of saved work is named after: the vectors, and which of them are of the target's cancer."""
    name = vectors_digest([vectors, *globals_by_fold])[:12]
    return f"{name}-{digest(sorted(kin))[:8]}" if kin else name


def vectors_digest(parts: Sequence[Mapping[str, TaskVector]]) -> str:
    """SHA-256 of vectors and their names, which separates the saved work on different vectors."""
    hasher = hashlib.sha256()
    for part in parts:
        for name, vector in part.items():
            hasher.update(name.encode() + b"\n" + vector.flat().numpy().tobytes())
            if vector.head is not None:
                hasher.update(b"head" + vector.head.numpy().tobytes())
    return hasher.hexdigest()
