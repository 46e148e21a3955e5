"""Makes a target's final model: trained on all of its patients, several times with another seed, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedsteph.client.evaluation.decision import Decision
from fedsteph.client.methods.task import as_mixed, vectors_digest
from fedsteph.client.models.context.cohort_survival import CohortSurvival
from fedsteph.client.models.enhanced_file import train_enhanced
from fedsteph.client.models.final_file import load_file, save_final
from fedsteph.client.models.model_file import LoadedModel, followed_years, load_model, percentiles_of
from fedsteph.client.models.slide_features import SlideFeatures
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.panel.fit_panel import PanelMembers, set_panel
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.steph.fit import collapsed
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.usage import usage
from fedsteph.client.target.final.final_choice import FinalChoice, final_choice
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.target_result import FINAL, FinalModel
from fedsteph.client.training.batch import predict_hazards
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.host.checked_file import kept
from fedsteph.common.host.progress import Progress, part
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.survival import risk_score, survival_from_hazards
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class MadeFinal:
    """A final model: its file among the work that is kept, and what the result tells of it."""

    path: Path
    told: FinalModel


def final_steps(recipe: Recipe) -> int:
    """Number of models that :func:`make_final` trains at most: a local and an enhanced one per member."""
    return 2 * recipe.final.members


def make_final(
    workspace: Workspace,
    folds: Sequence[FoldResult],
    vectors: Mapping[str, TaskVector],
    folder: Path,
    progress: Progress,
    kin: frozenset[str] = frozenset(),
) -> MadeFinal | None:
    """Train the final model's members and write their common file, or take what was made before; None: none is asked.

    Args:
        vectors: source -> received vector.
        folder: keeps this work.
        progress: in trainings, :func:`final_steps` in total.
        kin: names of the sources of the target's cancer.
    """
    recipe, n, total = workspace.recipe, workspace.recipe.final.members, final_steps(workspace.recipe)
    if n == 0:
        return None
    for m in range(n):
        workspace.train_on_all(m, part(progress, m, total))
    models = [load_model(workspace.whole_path(m), recipe.model.dropout) for m in range(n)]
    choice, home = final_choice(folds, vectors, recipe), workspace.whole_path().parent
    margin = recipe.panel.margin
    decision = choice.decision(margin)
    if decision.method == "panel":
        place = _place(folder, choice)
        made = [_enhanced(workspace, choice, place, m, models[m], part(progress, n + m, total), kin) for m in range(n)]
        is_collapsed = any(collapsed(_steph(one), workspace.cohort, workspace.device) for one in made)
        decision = choice.decision(margin, is_collapsed)
        if decision.method == "panel":
            models, home = made, place
    progress(total, total)
    path = home / f"model_of_{n}.safetensors"
    if kept(path, load_file) is None:
        _save(path, workspace, models, as_mixed(choice.vectors, kin))
    return MadeFinal(path, _told(workspace, choice, decision, models))


def train_enhanced_member(
    workspace: Workspace,
    folds: Sequence[FoldResult],
    vectors: Mapping[str, TaskVector],
    folder: Path,
    m: int,
    progress: Progress,
    kin: frozenset[str],
) -> None:
    """Train one enhanced member of :func:`make_final` before it, and leave its file; nothing if it takes local ones."""
    choice = final_choice(folds, vectors, workspace.recipe)
    if choice.decision(workspace.recipe.panel.margin).method == "panel":
        local = load_model(workspace.whole_path(m), workspace.recipe.model.dropout)
        _enhanced(workspace, choice, _place(folder, choice), m, local, progress, kin)


def _place(folder: Path, choice: FinalChoice) -> Path:
    return folder / f"final-{vectors_digest([choice.vectors])[:12]}-{choice.selection.gamma:g}"


def _steph(loaded: LoadedModel) -> Steph:
    assert isinstance(loaded.model, Steph)
    return loaded.model


def _enhanced(
    workspace: Workspace,
    choice: FinalChoice,
    place: Path,
    m: int,
    local: LoadedModel,
    progress: Progress,
    kin: frozenset[str],
) -> LoadedModel:
    """One enhanced member with its panel, trained unless its file exists."""
    path, recipe, device = place / f"member_{m}" / "steph.safetensors", workspace.recipe, workspace.device
    load = partial(load_model, dropout=recipe.model.dropout)
    assert isinstance(local.model, BaseModel)
    found = kept(path, load)
    if found is None:
        train_enhanced(
            path,
            workspace.cohort,
            local.model,
            as_mixed(choice.vectors, kin),
            recipe,
            gamma=choice.selection.gamma,
            label=f"all patients, member {m}",
            run=TrainingRun(device, path.with_suffix(".checkpoint"), progress),
        )
        found = load(path)
    members = PanelMembers.of(local.model, choice.vectors, kin, workspace.cohort, recipe, device)
    weights = members.received.weights(choice.selection.weights, recipe.panel)
    set_panel(_steph(found), members, weights, workspace.cohort, device)
    return found


def _save(path: Path, workspace: Workspace, models: Sequence[LoadedModel], vectors: Mapping[str, TaskVector]) -> None:
    cohort = workspace.cohort
    hazards = [torch.from_numpy(predict_hazards(one.model, cohort, workspace.device)) for one in models]
    mean_risk = np.mean([risk_score(of_one).numpy() for of_one in hazards], axis=0)
    survival = np.mean([survival_from_hazards(of_one).numpy() for of_one in hazards], axis=0)
    save_final(
        path,
        models,
        vectors,
        reference=percentiles_of(mean_risk),
        slides=SlideFeatures.of(cohort),
        followed_years=followed_years(cohort, workspace.recipe.model.n_bins),
        trained_on=TrainedOn.of(cohort, models[0].model),
        cohort=CohortSurvival.of(survival, mean_risk),
        m0=pinned_model(workspace.recipe.model),
    )


def _told(workspace: Workspace, choice: FinalChoice, decision: Decision, models: Sequence[LoadedModel]) -> FinalModel:
    is_enhanced, w = decision.method == "panel", {}
    if is_enhanced:
        used = [usage(_steph(one), workspace.cohort, workspace.device).w.mean(axis=0) for one in models]
        w = dict(zip(choice.vectors, np.mean(used, axis=0).round(6).tolist(), strict=True))
    return FinalModel(
        path=FINAL,
        members=len(models),
        choice=decision.method,
        reason=decision.reason,
        useful=decision.useful,
        gamma=choice.selection.gamma if is_enhanced else None,
        gamma_reason=choice.selection.gamma_reason if is_enhanced else None,
        weights=dict(choice.weights),
        w=w,
    )
