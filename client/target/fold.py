"""One fold of a target: screening, all methods on the same test patients, and the choice of the deployed model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np

from fedsteph.client.evaluation.inner_folds import InnerFold, inner_folds, n_inner_folds
from fedsteph.client.evaluation.select import select, trainings, tried, without_sources
from fedsteph.client.methods.task import Task, vectors_digest
from fedsteph.client.screening.screen import admitted, screen
from fedsteph.client.screening.verdict import Verdict
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.sharing.shared_model import kept_model
from fedsteph.client.site.policy import Mode
from fedsteph.client.target.comparators import comparators_of, compare
from fedsteph.client.target.enhanced_model import enhanced_model, with_panel
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.judgement import judge, judge_local_alone
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ModelFileError
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.report.csv_text import csv_text
from fedsteph.common.vector.task_vector import TaskVector

_INNER = "inner"  # folder of the inner trainings' scores


def steps(task: Task) -> int:
    """Number of models that :func:`enhance_fold` trains: inner ones, STEPH's, comparators."""
    return n_inner_folds(task.recipe) + trainings(task.recipe) + 1 + len(comparators_of(task))


def screen_fold(task: Task, mode: Mode) -> None:
    """Judge a fold's vectors ahead of :func:`enhance_fold`; arguments as there."""
    _screened(task, task.inner, mode)


def try_steph(task: Task, i: int, progress: Progress = silent, mode: Mode = "report") -> None:
    """Make number ``i`` of the inner trainings of STEPH ahead of :func:`enhance_fold`; arguments as there."""
    inner = task.inner
    task, _ = _screened(task, inner, mode)
    if task.vectors and inner:
        sources, folder = list(task.mixed.values()), task.folder / _INNER
        tried(inner, i, sources, task.recipe, device=task.device, folder=folder, progress=progress)


def enhance_fold(task: Task, progress: Progress = silent, mode: Mode = "report") -> FoldResult:
    """Screen the vectors, and train and judge STEPH and the comparators on one fold.

    Args:
        task: its folder keeps this fold's work and models; existing work is reused.
        progress: in trainings, :func:`steps` in total.
        mode: what happens to suspicious vectors; all methods merge the vectors that are left.
    """
    n_inner, total = n_inner_folds(task.recipe), steps(task)
    inner = inner_folds(task.workspace, task.fold, part(progress, 0, total, n_inner))
    task, verdicts = _screened(task, inner, mode)
    rest = part(progress, n_inner, total, total - n_inner)
    result = _merged(task, inner, rest) if task.vectors else _local_alone(task, inner, rest)
    ids = tuple(patient.id for patient in task.workspace.test_part(task.fold).patients)
    crossed = _cross_fitted(task, inner, result)
    result = replace(result, verdicts=verdicts, ids=ids, cross_fitted=crossed)
    _write_predictions(task, result)
    return result


def _screened(task: Task, inner: Sequence[InnerFold], mode: Mode) -> tuple[Task, dict[str, Verdict]]:
    """The verdict on every received vector, and the task with those to merge; its folder is another if they differ.

    Vectors are judged on inner validation, and against copies of the target's own vectors.
    """
    # The shared model too: it was trained on fold 0's patients, so a copy of its vector has seen other folds' test
    # patients and would look good in every validation.
    models = [model for model in (task.local, kept_model(task.workspace)) if model is not None]
    own = [as_received(TaskVector.between(model, task.m0), task.recipe.sharing) for model in models]
    path = task.folder / f"screening-{mode}-{vectors_digest([{'': one} for one in own])[:12]}.json"
    if (verdicts := checked_file.kept(path, _read_verdicts)) is None:
        verdicts = screen(inner, task.vectors, own, task.recipe, mode=mode, device=task.device)
        checked_file.write_json(path, {name: asdict(verdict) for name, verdict in verdicts.items()})
    if any(verdict.weight != 1.0 for verdict in verdicts.values()):
        vectors = admitted(task.vectors, verdicts)
        task = replace(task, vectors=vectors, folder=task.folder / f"screened-{vectors_digest([vectors])[:12]}")
    return task, verdicts


def _read_verdicts(path: Path) -> dict[str, Verdict]:
    try:
        return {name: build(Verdict, found, path) for name, found in checked_file.read_json(path).items()}
    except ConfigError as error:
        raise ModelFileError("is damaged", where=path) from error


def _merged(task: Task, inner: Sequence[InnerFold], progress: Progress) -> FoldResult:
    """Choose gamma, train STEPH and the comparators, and judge them on the test patients."""
    n, n_compared = trainings(task.recipe), len(comparators_of(task))
    total = n + 1 + n_compared
    folder, done = task.folder / _INNER, part(progress, 0, total, n)
    sources, groups = list(task.mixed.values()), task.members.received
    selection = select(inner, sources, task.recipe, device=task.device, folder=folder, groups=groups, progress=done)
    enhanced = enhanced_model(task, selection.gamma, part(progress, n, total))
    compared = compare(task, part(progress, n + 1, total, n_compared))
    return judge(task, selection, enhanced, with_panel(task, enhanced, selection.weights), compared)


def _local_alone(task: Task, inner: Sequence[InnerFold], progress: Progress) -> FoldResult:
    """Results where every source was refused: the local model stands in for all methods that merge vectors."""
    names = [name for name in comparators_of(task) if METHODS[name].needs != "vectors"]
    compared = compare(task, progress, names)
    return judge_local_alone(task, without_sources(inner, task.recipe, task.device), compared)


def _cross_fitted(task: Task, inner: Sequence[InnerFold], result: FoldResult) -> dict[str, np.ndarray]:
    """The inner folds' risks of their validation patients, in the order of the fold's training patients."""
    if not (inner and result.selection.risks):
        return {}
    row = {patient.id: i for i, patient in enumerate(task.train.patients)}
    rows = [row[one.id] for one in chain.from_iterable(fold.validation.patients for fold in inner)]
    found = {}
    for method, values in result.selection.risks.items():  # the mean over repeats of the inner folds
        found[method] = np.bincount(rows, values, len(row)) / np.bincount(rows, minlength=len(row))
    for method in ("steph", "panel"):  # where every source was refused
        found.setdefault(method, found["local"])
    return found | {"deployed": found[result.decision.method]}


def _write_predictions(task: Task, result: FoldResult) -> None:
    """Write the test patients' outcomes and their risk under every method, as CSV."""
    columns: dict[str, Iterable[object]] = {"patient_id": result.ids, "t_days": result.times, "e": result.events}
    columns |= {f"risk_{name}": values for name, values in result.risk.items()}
    lines = zip(*columns.values(), strict=True)
    atomic.write_text(task.folder / "predictions.csv", csv_text([[*columns], *lines]))
