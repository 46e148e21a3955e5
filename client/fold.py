"""One fold of a target: every method on the same test patients, and which of them is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from client.batch import batches, predict_hazards
from client.comparison import comparators_of, compare
from client.data.bags import Cohort
from client.inner import inner_folds
from client.methods.task import Task, learnable_parameters
from client.metrics import Metrics, further_metrics
from client.model_file import load_model, save_steph
from client.steph.fit import collapsed, fit_steph
from client.steph.model import Steph
from client.steph.select import Selection, Step, choose_deployed, select, trainings
from common import atomic
from common.concordance import Pairs, pairs
from common.survival import risk_score


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
    risk: dict[str, np.ndarray]  # method -> (n_test_patients,); local, the comparators, steph, deployed
    metrics: dict[str, Metrics]  # method -> what the C-index leaves out
    learnable: dict[str, int]  # method -> parameters learned at the target

    def pairs(self, method: str) -> Pairs:
        """The fold's test pairs under a method."""
        return pairs(self.risk[method], self.times, self.events)


def steps(task: Task) -> int:
    """How many models :func:`enhance_fold` trains: inner ones, STEPH's, comparators."""
    return task.recipe.steph.inner_folds + trainings(task.recipe) + 1 + len(comparators_of(task))


def enhance_fold(task: Task, on_step: Step) -> FoldResult:
    """Train and judge STEPH and the comparators on one fold.

    Args:
        task: its folder keeps this fold's work and models; found work is not done again.
        on_step: told how many of :func:`steps` trainings are done.
    """
    workspace, recipe, device = task.workspace, task.recipe, task.device
    test, n_inner = workspace.test_part(task.fold), recipe.steph.inner_folds
    inner = inner_folds(workspace, task.fold, lambda j: lambda epoch, total: on_step(j + epoch / total))
    selection = select(
        inner,
        task.sources,
        recipe,
        device=device,
        cache=task.folder / "inner.json",
        on_step=lambda done: on_step(n_inner + done),
    )
    before = n_inner + trainings(recipe)
    path = task.folder / "steph.safetensors"
    if not path.exists():
        fitted = fit_steph(
            task.train,
            task.local,
            task.sources,
            recipe,
            gamma=selection.gamma,
            label=f"fold {task.fold}",
            device=device,
            checkpoint=task.checkpoint("steph"),
            on_epoch=lambda epoch, total: on_step(before + epoch / total),
        )
        m0_sha256 = str(recipe.model.m0_sha256)
        save_steph(path, fitted, list(task.vectors), m0_sha256=m0_sha256, encoder=workspace.cohort.encoder)
    steph = load_model(path, recipe.model.dropout).model
    assert isinstance(steph, Steph)
    compared = compare(task, lambda done: on_step(before + 1 + done))
    is_collapsed = collapsed(steph, task.train, device)
    choice, reason = choose_deployed(selection, is_collapsed)

    n_bins = recipe.model.n_bins
    hazards = {"local": predict_hazards(task.local, test, n_bins, device)}
    hazards |= {name: one.hazards for name, one in compared.items()}
    hazards["steph"] = predict_hazards(steph, test, n_bins, device)
    hazards["deployed"] = hazards[choice]
    learnable = {"local": learnable_parameters(task.local), "steph": learnable_parameters(steph)}
    learnable |= {name: one.learnable for name, one in compared.items()}
    result = FoldResult(
        selection=selection,
        collapsed=is_collapsed,
        choice=choice,
        choice_reason=reason,
        model=path if choice == "steph" else workspace.fold_folder(task.fold) / "local.safetensors",
        sources=_source_use(steph, test, list(task.vectors), device),
        times=test.times,
        events=test.events,
        risk={name: risk_score(torch.from_numpy(values)).numpy() for name, values in hazards.items()},
        metrics={name: further_metrics(values, test, task.train) for name, values in hazards.items()},
        learnable=learnable | {"deployed": learnable[choice]},
    )
    table = pd.DataFrame({"patient_id": [p.id for p in test.patients], "t_days": test.times, "e": test.events})
    table = table.assign(**{f"risk_{name}": values for name, values in result.risk.items()})
    atomic.write_text(task.folder / "predictions.csv", table.to_csv(index=False))
    return result


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
