"""Builds a target and twelve sources from fewer cohorts, by splitting the largest cohorts into two sources each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.splits import make_splits
from fedsteph.client.models.model_file import load_base, save_base
from fedsteph.client.sharing.outgoing import as_received, shared_vector
from fedsteph.client.sharing.shared_model import train_shared
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.local import train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.host.checked_file import kept
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector

SOURCES = 12


@dataclass(frozen=True)
class Source:
    """A source: a site, or one half of a site's training patients of fold 0."""

    name: str
    workspace: Workspace
    train: Cohort
    is_half: bool

    def honest(self) -> TaskVector:
        """The task vector that the honest source shares."""
        if not self.is_half:
            return trained_vector(self.workspace)
        recipe, run = self.workspace.recipe, TrainingRun(self.workspace.device)
        return self.kept("local", lambda: train_local(self.train, recipe, label=self.name, run=run))

    def kept(self, what: str, train: Callable[[], BaseModel]) -> TaskVector:
        """The vector of a model, as its recipients receive it; the model is trained once and saved as ``what``."""
        recipe = self.workspace.recipe
        path = self.workspace.fold_folder(0) / f"as-{self.name}" / f"{what}.safetensors"
        model = kept(path, partial(load_base, dropout=recipe.model.dropout))
        if model is None:
            model = train()
            save_base(path, model, m0_sha256=str(recipe.model.m0_sha256), extraction=self.workspace.cohort.extraction)
        return as_received(TaskVector.between(model, pinned_model(recipe.model)), recipe.sharing)


def trained_vector(workspace: Workspace) -> TaskVector:
    """The vector that a site shares, after training its model if that was not done before."""
    train_shared(workspace)
    return shared_vector(workspace)


def sources_of(target: str, workspaces: Mapping[str, Workspace], wanted: int = SOURCES) -> list[Source]:
    """The sources of a target: all other cohorts; the largest are split in two until there are ``wanted`` sources."""
    others = [name for name in workspaces if name != target]
    by_size = sorted(others, key=lambda name: -len(workspaces[name].cohort))
    halved = {*by_size[: max(0, wanted - len(others))]}
    found = []
    for name in others:
        workspace, train = workspaces[name], workspaces[name].train_part(0)
        if name not in halved:
            found.append(Source(name, workspace, train, is_half=False))
            continue
        for letter, split in zip("ab", make_splits(train.patients, 2, 0), strict=True):
            found.append(Source(f"{name}-{letter}", workspace, train.subset(split.test), is_half=True))
    return found
