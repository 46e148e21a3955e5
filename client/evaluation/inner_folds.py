"""Makes the inner cross-validation folds of a target's training part, for choices without test patients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.splits import make_splits
from fedsteph.client.models.local_file import train_file
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import SplitError
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.base_model import BaseModel


@dataclass(frozen=True)
class InnerFold:
    """One inner fold: its training part, its validation part, and the local model of the training part."""

    label: str
    train: Cohort
    validation: Cohort
    local: BaseModel


def inner_folds(workspace: Workspace, fold: int, progress: Progress = silent) -> list[InnerFold]:
    """Make the inner folds of one outer fold, each with its own local model, which is trained once and saved.

    Neither the vectors nor the models that are evaluated on a validation part have seen its patients. There are as many
    as the recipe asks for, of every repeat one after the other; none if the training part is too small to be divided.
    Progress is in inner folds.
    """
    plan = _planned(workspace, fold)
    return [one.made(workspace, part(progress, i, len(plan))) for i, one in enumerate(plan)]


def train_inner(workspace: Workspace, fold: int, i: int, progress: Progress = silent) -> None:
    """Train the local model of inner fold number ``i`` ahead of :func:`inner_folds`; nothing if there is none."""
    for one in _planned(workspace, fold)[i : i + 1]:
        one.made(workspace, progress)


@dataclass(frozen=True)
class _Planned:
    """An inner fold whose local model may be untrained."""

    label: str
    path: Path  # of the local model
    train: Cohort
    validation: Cohort

    def made(self, workspace: Workspace, progress: Progress) -> InnerFold:
        recipe, device = workspace.recipe, workspace.device
        local = train_file(
            self.path, self.train, recipe, label=self.label, device=device, progress=progress, with_reference=False
        )
        return InnerFold(self.label, self.train, self.validation, local)


def _planned(workspace: Workspace, fold: int) -> list[_Planned]:
    recipe, cohort, label = workspace.recipe, workspace.train_part(fold), f"fold {fold}"
    n, found = recipe.steph.inner_folds, list[_Planned]()
    for r in range(recipe.steph.inner_repeats):
        again, mark = (f", repeat {r}", f"repeat_{r}_") if r else ("", "")
        try:
            splits = make_splits(cohort.patients, n, derive_seed(recipe.training.seed, "inner", f"{label}{again}"))
        except SplitError:
            return []
        for j, split in enumerate(splits):
            path = workspace.fold_folder(fold) / f"{mark}inner_{j}_of_{n}.safetensors"
            parts = cohort.subset(split.train), cohort.subset(split.test)
            found.append(_Planned(f"{label}{again}, inner fold {j}", path, *parts))
    return found


def n_inner_folds(recipe: Recipe) -> int:
    """Number of inner folds of one outer fold, over all repeats."""
    return recipe.steph.inner_folds * recipe.steph.inner_repeats
