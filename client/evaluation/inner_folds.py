"""Makes the inner cross-validation folds of a target's training part, for choices without test patients."""

from __future__ import annotations

from dataclasses import dataclass

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
    recipe, cohort, label = workspace.recipe, workspace.train_part(fold), f"fold {fold}"
    n, repeats, found = recipe.steph.inner_folds, recipe.steph.inner_repeats, list[InnerFold]()
    for r in range(repeats):
        again, mark = (f", repeat {r}", f"repeat_{r}_") if r else ("", "")
        try:
            splits = make_splits(cohort.patients, n, derive_seed(recipe.training.seed, "inner", f"{label}{again}"))
        except SplitError:
            return []
        for j, split in enumerate(splits):
            train, name = cohort.subset(split.train), f"{label}{again}, inner fold {j}"
            path = workspace.fold_folder(fold) / f"{mark}inner_{j}_of_{n}.safetensors"
            here, device = part(progress, r * n + j, repeats * n), workspace.device
            local = train_file(path, train, recipe, label=name, device=device, progress=here, with_reference=False)
            found.append(InnerFold(name, train, cohort.subset(split.test), local))
    return found


def n_inner_folds(recipe: Recipe) -> int:
    """Number of inner folds of one outer fold, over all repeats."""
    return recipe.steph.inner_folds * recipe.steph.inner_repeats
