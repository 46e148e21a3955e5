"""One fold of a target: every method on the same test patients, and which of them is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from client.batch import batches, risks
from client.data.bags import Cohort
from client.model_file import load_model, save_steph
from client.steph.fit import collapsed, fit_steph
from client.steph.mixture import Mixture
from client.steph.model import Steph
from client.steph.select import Selection, Step, select, trainings
from client.workspace import Workspace
from common import atomic
from common.abmil import ABMIL, pinned_model
from common.concordance import Pairs, pairs
from common.task_vector import TaskVector, mean

ENOUGH_PAIRS = 50  # comparable inner pairs below which a better C is taken for luck
METHODS = ("local", "model_average", "steph", "deployed")


@dataclass(frozen=True)
class SourceUse:
    """How the test patients' merges used one source: share of patients who kept it, mean w and lam there."""

    kept: float
    w: float
    lam: float


@dataclass(frozen=True)
class FoldResult:
    """All that one fold of a target gives; the risks are of patients and stay at the site."""

    selection: Selection
    collapsed: bool
    choice: str  # the method deployed: steph or local
    choice_reason: str
    model: Path  # the deployed model
    sources: dict[str, SourceUse]
    times: np.ndarray
    events: np.ndarray
    risk: dict[str, np.ndarray]  # method -> (n_test_patients,)

    def pairs(self, method: str) -> Pairs:
        """The fold's test pairs under a method."""
        return pairs(self.risk[method], self.times, self.events)


def steps(workspace: Workspace) -> int:
    """How many models :func:`enhance_fold` trains."""
    return trainings(workspace.recipe) + 1


def enhance_fold(
    workspace: Workspace, fold: int, vectors: Mapping[str, TaskVector], folder: Path, on_step: Step
) -> FoldResult:
    """Train and judge STEPH on one fold.

    Args:
        vectors: the received task vectors by source.
        folder: where this fold's work and models are kept; found work is not done again.
        on_step: told how many of :func:`steps` trainings are done.
    """
    recipe, device = workspace.recipe, workspace.device
    train, test = workspace.train_part(fold), workspace.test_part(fold)
    m0 = pinned_model(recipe.model)
    local = workspace.local_model(fold)
    target, sources = TaskVector.between(local, m0), list(vectors.values())
    selection = select(
        train,
        m0,
        sources,
        recipe,
        label=f"fold {fold}",
        device=device,
        cache=folder / "inner.json",
        on_step=on_step,
    )
    path = folder / "steph.safetensors"
    if not path.exists():
        done = trainings(recipe)
        fitted = fit_steph(
            train,
            Mixture.of(m0, target, sources),
            recipe,
            gamma=selection.gamma,
            label=f"fold {fold}",
            device=device,
            checkpoint=folder / "steph.checkpoint",
            on_epoch=lambda epoch, total: on_step(done + epoch / total),
        )
        save_steph(path, fitted, list(vectors), m0_sha256=target.m0_sha256, encoder=workspace.cohort.encoder)
    steph = load_model(path, recipe.model.dropout).model
    assert isinstance(steph, Steph)
    is_collapsed = collapsed(steph, train, device)
    choice, reason = _choose(selection, is_collapsed)
    models = {"local": local, "model_average": _average(local, m0, [target, *sources]), "steph": steph}
    risk = {name: risks(model, test, recipe.model.n_bins, device) for name, model in models.items()}
    risk["deployed"] = risk[choice]
    result = FoldResult(
        selection=selection,
        collapsed=is_collapsed,
        choice=choice,
        choice_reason=reason,
        model=path if choice == "steph" else workspace.fold_folder(fold) / "local.safetensors",
        sources=_source_use(steph, test, list(vectors), device),
        times=test.times,
        events=test.events,
        risk=risk,
    )
    table = pd.DataFrame({"patient_id": [p.id for p in test.patients], "t_days": test.times, "e": test.events})
    table = table.assign(**{f"risk_{name}": values for name, values in risk.items()})
    atomic.write_text(folder / "predictions.csv", table.to_csv(index=False))
    return result


def _choose(selection: Selection, is_collapsed: bool) -> tuple[str, str]:
    if is_collapsed:
        return "local", "STEPH collapsed: all kept weights are 0"
    n = selection.n_comparable
    if selection.steph is None or selection.local is None or n < ENOUGH_PAIRS:
        return "local", f"too small to validate: {n} comparable pairs in inner cross-validation, {ENOUGH_PAIRS} needed"
    scores = (
        f"inner C-index {selection.steph:.3f} against {selection.local:.3f} of the local model, "
        f"over {n} comparable pairs"
    )
    if selection.steph >= selection.local:
        return "steph", f"not worse in inner cross-validation: {scores}"
    return "local", f"STEPH is worse in inner cross-validation: {scores}"


def _average(local: ABMIL, m0: ABMIL, vectors: list[TaskVector]) -> ABMIL:
    """``M0`` plus the mean of all vectors, the target's among them, under the target's own head."""
    head = {name: local.state_dict()[name] for name in ("head.weight", "head.bias")}
    return mean(vectors).applied_to(m0, head)


@torch.no_grad()
def _source_use(model: Steph, cohort: Cohort, names: list[str], device: torch.device) -> dict[str, SourceUse]:
    model.to(device).eval()
    kept, w, lam = (torch.zeros(len(names)) for _ in range(3))
    for _, batch in batches(cohort, range(len(cohort)), model.head.out_features, device):
        routing = model.route(batch.bags, batch.mask)
        used = torch.zeros_like(routing.w).scatter(1, routing.kept, 1.0) * (routing.w > 0)
        kept += used.sum(dim=0).cpu()
        w += (used * routing.w).sum(dim=0).cpu()
        lam += (used * routing.lam).sum(dim=0).cpu()
    users = kept.clamp(min=1)
    columns = zip(names, kept / len(cohort), w / users, lam / users, strict=True)
    return {name: SourceUse(*(round(float(x), 6) for x in values)) for name, *values in columns}
