"""One fold of a target: screening, all methods on the same test patients, and the choice of the deployed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedsteph.client.evaluation.inner_folds import InnerFold, inner_folds
from fedsteph.client.evaluation.metrics import Metrics, further_metrics
from fedsteph.client.evaluation.select import Selection, Step, choose_deployed, select, trainings, without_sources
from fedsteph.client.methods.task import Task, learnable_parameters, vectors_digest
from fedsteph.client.models.model_file import Local, load_model, reference_risks, save_steph
from fedsteph.client.screening.screen import Screening, screen
from fedsteph.client.screening.verdict import Verdict
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.sharing.shared_model import kept_model
from fedsteph.client.site.policy import Mode
from fedsteph.client.steph.dynamics import Dynamics
from fedsteph.client.steph.fit import collapsed, fit_steph
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.usage import SourceUse, Usage, usage
from fedsteph.client.target.comparators import comparators_of, compare
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.host import atomic
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.task_vector import TaskVector

_SHOWN = ("local", "steph", "deployed")  # methods whose curves a page draws
DYNAMICS_FILE = "dynamics.json"  # beside an enhanced model: w and lam by epoch of its training


@dataclass(frozen=True)
class FoldResult:
    """All results of one fold of a target. They contain patients' risks, so they stay at the site."""

    selection: Selection
    collapsed: bool
    choice: str  # the method deployed: steph or local
    choice_reason: str
    model: Path  # the deployed model
    sources: dict[str, SourceUse]  # how the test patients' merges used the sources that were merged
    times: np.ndarray
    events: np.ndarray
    risk: dict[str, np.ndarray]  # method -> (n_test_patients,); local, the comparators, steph, deployed
    metrics: dict[str, Metrics]  # method -> metrics beyond the C-index
    learnable: dict[str, int]  # method -> parameters learned at the target
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # on every received vector
    enhanced: Path | None = None  # STEPH's model; None where every source was refused
    ids: tuple[str, ...] = ()  # of the test patients
    hazards: dict[str, np.ndarray] = field(default_factory=dict)  # local, steph, deployed: (n_test_patients, n_bins)
    cut_off: dict[str, float] = field(default_factory=dict)  # same methods: median risk of the training patients
    usage: Usage | None = None  # the test patients' merges, by source in the order of ``sources``

    def pairs(self, method: str) -> Pairs:
        """The fold's comparable pairs of test patients under a method's risks."""
        return pairs(self.risk[method], self.times, self.events)


def steps(task: Task) -> int:
    """How many models :func:`enhance_fold` trains: for inner validation, STEPH, and comparators."""
    return task.recipe.steph.inner_folds + trainings(task.recipe) + 1 + len(comparators_of(task))


def enhance_fold(task: Task, on_step: Step, mode: Mode = "report") -> FoldResult:
    """Screen the vectors, then train and evaluate STEPH and the comparators on one fold.

    Args:
        task: its folder keeps this fold's work and models, which are reused.
        on_step: called with how many of the :func:`steps` trainings are done, fractions included.
        mode: what happens to suspicious vectors; all methods merge the remaining ones.
    """
    inner = inner_folds(task.workspace, task.fold, lambda j: lambda epoch, total: on_step(j + epoch / total))
    screening = _screened(task, inner, mode)
    task = _merging(task, screening)
    result = _merged(task, inner, on_step) if task.vectors else _local_alone(task, inner, on_step)
    table = task.workspace.test_part(task.fold).patients
    ids = tuple(patient.id for patient in table)
    columns = {"patient_id": ids, "t_days": result.times, "e": result.events}
    risks = {f"risk_{name}": values for name, values in result.risk.items()}
    atomic.write_text(task.folder / "predictions.csv", pd.DataFrame(columns).assign(**risks).to_csv(index=False))
    return replace(result, verdicts=screening.verdicts, ids=ids)


def _screened(task: Task, inner: Sequence[InnerFold], mode: Mode) -> Screening:
    sharing = task.recipe.sharing
    # The shared model too: it was trained on fold 0's patients, so a copy of its vector has seen other folds' test
    # patients and would look good in every validation.
    models = [model for model in (task.local, kept_model(task.workspace)) if model is not None]
    own = [as_received(TaskVector.between(model, task.m0), sharing) for model in models]
    return screen(inner, task.vectors, own, task.recipe, mode=mode, device=task.device)


def _merging(task: Task, screening: Screening) -> Task:
    """The task with the vectors that passed screening; if they differ from the received ones, in a separate folder."""
    if all(verdict.weight == 1.0 for verdict in screening.verdicts.values()):
        return task
    folder = task.folder / f"screened-{vectors_digest([screening.vectors])[:12]}"
    return replace(task, vectors=screening.vectors, folder=folder)


def _local_alone(task: Task, inner: Sequence[InnerFold], on_step: Step) -> FoldResult:
    """The result if every source was refused: each method that merges vectors gives the local model."""
    test, n_bins, device = task.workspace.test_part(task.fold), task.recipe.model.n_bins, task.device
    hazards = predict_hazards(task.local, test, n_bins, device)
    # Comparators that need no vectors are trained as usual.
    others = compare(task, on_step, [name for name in comparators_of(task) if METHODS[name].needs != "vectors"])
    by_name = dict.fromkeys(("local", *comparators_of(task), "steph", "deployed"), hazards)
    by_name |= {name: one.hazards for name, one in others.items()}
    learnable = dict.fromkeys(by_name, learnable_parameters(task.local))
    learnable |= {name: one.learnable for name, one in others.items()}
    return FoldResult(
        selection=without_sources(inner, task.recipe, device),
        collapsed=False,
        choice="local",
        choice_reason="the screening refused every source: there is nothing to merge",
        model=task.workspace.local_path(task.fold),
        sources={},
        learnable=learnable,
        hazards=dict.fromkeys(_SHOWN, hazards),
        cut_off=dict.fromkeys(
            ("local", "steph", "deployed"), _cut_off(reference_risks(task.local, task.train, device))
        ),
        **_judged(task, by_name),
    )


def _merged(task: Task, inner: Sequence[InnerFold], on_step: Step) -> FoldResult:
    workspace, recipe, device = task.workspace, task.recipe, task.device
    test, n_inner = workspace.test_part(task.fold), recipe.steph.inner_folds
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
            dynamics=Dynamics(path.with_name(DYNAMICS_FILE), list(task.vectors)),
            on_epoch=lambda epoch, total: on_step(before + epoch / total),
        )
        save_steph(
            path,
            fitted,
            list(task.vectors),
            m0_sha256=str(recipe.model.m0_sha256),
            encoder=workspace.cohort.encoder,
            reference=reference_risks(fitted, task.train, device),
            local=Local(task.local, reference_risks(task.local, task.train, device)),
        )
    loaded = load_model(path, recipe.model.dropout)
    steph = loaded.model
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
    used = usage(steph, test, device)
    # Files of earlier versions lack the percentiles of the training patients' risks.
    own = None if loaded.local is None else loaded.local.reference
    cut_off = {
        "local": _cut_off(reference_risks(task.local, task.train, device) if own is None else own),
        "steph": _cut_off(reference_risks(steph, task.train, device) if loaded.reference is None else loaded.reference),
    }
    return FoldResult(
        selection=selection,
        collapsed=is_collapsed,
        choice=choice,
        choice_reason=reason,
        model=path if choice == "steph" else workspace.local_path(task.fold),
        sources=used.of_sources(list(task.vectors)),
        learnable=learnable | {"deployed": learnable[choice]},
        enhanced=path,
        hazards={name: hazards[name] for name in _SHOWN},
        cut_off=cut_off | {"deployed": cut_off[choice]},
        usage=used,
        **_judged(task, hazards),
    )


def _judged(task: Task, hazards: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The test patients' outcomes, and every method's risks and further metrics on them."""
    test = task.workspace.test_part(task.fold)
    return {
        "times": test.times,
        "events": test.events,
        "risk": {name: risk_score(torch.from_numpy(values)).numpy() for name, values in hazards.items()},
        "metrics": {name: further_metrics(values, test, task.train) for name, values in hazards.items()},
    }


def _cut_off(percentiles: np.ndarray) -> float:
    return float(percentiles[len(percentiles) // 2])
