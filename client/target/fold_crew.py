"""Trains a target's models side by side in worker processes, one thread each: what they leave is as if made in turn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedsteph.client.evaluation.inner_folds import n_inner_folds, train_inner
from fedsteph.client.evaluation.select import trainings
from fedsteph.client.methods.task import Task
from fedsteph.client.sharing.mapped_vector import HandedVector, handed
from fedsteph.client.site.policy import Mode
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.final.final_model import final_steps, train_enhanced_member
from fedsteph.client.target.fold import enhance_fold, screen_fold, steps, try_steph
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.training.device import usual_workers
from fedsteph.client.training.epoch_log import to_tensorboard
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.host.crew import Crew
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.architecture import Architecture

_HANDED = ".handed"  # folder in the site's state: vectors on their way to the workers, which map them as they begin
_FLOPS = 5e10  # multiplications and additions a second of one core
_PER_BAG = 1e-4  # seconds that a bag takes however small it is
_WORTH_SECONDS = 20.0  # of work; a worker takes seconds to begin
# What a worker calls, with what, and how many trainings it is.
_Unit = tuple[Callable[[Any, Progress], Any], Any, float]
_opened: _Opened | None = None


@dataclass(frozen=True)
class _Ground:
    """What a worker opens: the site's workspace, and the tasks of a merge, without their vectors' values."""

    site: Site
    recipe: Recipe
    vectors: Mapping[str, HandedVector]
    together: Sequence[Mapping[str, HandedVector]]  # Task.globals, by fold
    folders: Sequence[Path]  # Task.folder, by fold
    kin: frozenset[str]
    mode: Mode


@dataclass(frozen=True)
class _Opened:
    """What a worker works with."""

    workspace: Workspace
    tasks: Sequence[Task]
    mode: Mode
    stack: ExitStack


def n_workers(workspace: Workspace, trainings: int) -> int:
    """How many worker processes train so many models of this site; 1: this process does it."""
    asked = workspace.site.file.workers
    if asked != "auto":
        return min(asked, trainings)
    if _seconds(workspace, trainings) <= _WORTH_SECONDS:
        return 1
    n = usual_workers(workspace.device)
    return min(n, workspace.site.cores or n, trainings)


def _seconds(workspace: Workspace, trainings: int) -> float:
    """What so many trainings take about, on one core."""
    training, cohort = workspace.recipe.training, workspace.cohort
    n_patients = len(cohort)
    per_epoch = -(-n_patients // training.batch_bags)
    epochs = max(training.epochs, training.min_steps / per_epoch)
    instances = sum(cohort.n_instances(i) for i in range(n_patients))
    flops = 6 * instances * Architecture.of(workspace.recipe.model).n_merged
    return trainings * epochs * (n_patients * _PER_BAG + flops / _FLOPS)


def train_side_by_side(workspace: Workspace, progress: Progress = silent) -> None:
    """Train the site's own models of all folds that are missing; progress is in trainings."""
    missing = [k for k in range(len(workspace.splits)) if not workspace.local_path(k).exists()]
    if (workers := n_workers(workspace, len(missing))) > 1:
        ground = _Ground(workspace.site, workspace.recipe, {}, (), (), frozenset(), "report")
        with _crew(ground, workers) as crew:
            for _ in crew.each(_train, missing, progress=progress):
                pass


def enhance_side_by_side(
    workspace: Workspace, tasks: Sequence[Task], folder: Path, workers: int, mode: Mode, progress: Progress = silent
) -> list[FoldResult]:
    """Make every fold's result, and what the final model is made of, in worker processes.

    The final model's members are left as files, for :func:`fedsteph.client.target.final.final_model.make_final`.

    Args:
        tasks: one per fold, of the same vectors.
        folder: keeps the final model's work.
        progress: in trainings.
    """
    passing = workspace.site.state / _HANDED
    shutil.rmtree(passing, ignore_errors=True)  # of a merge that was killed as its workers began
    total = steps(tasks[0]) * len(tasks) + final_steps(workspace.recipe)
    folds: list[FoldResult] = []
    try:
        with _crew(_ground_of(workspace, tasks, mode, passing), workers) as crew:
            clear, before = partial(shutil.rmtree, passing, ignore_errors=True), 0.0
            for units in _stages(workspace, tasks, workers):
                sizes = [size for _, _, size in units]
                here = part(progress, before, total, sum(sizes))
                done = dict(crew.each(_do, [(do, unit) for do, unit, _ in units], sizes, here, clear))
                before += sum(sizes)
            folds = [done[i] for i in range(len(tasks))]
            final = [(m, folds, folder) for m in range(workspace.recipe.final.members)]
            for _ in crew.each(_finish, final, progress=part(progress, before, total, total - before)):
                pass
    finally:
        shutil.rmtree(passing, ignore_errors=True)
    return folds


def _stages(workspace: Workspace, tasks: Sequence[Task], workers: int) -> Iterator[list[_Unit]]:
    """What can be done side by side, stage by stage: each needs the files of those before. The last: the folds first.

    A fold's trainings are units of their own, so that they are shared out, and not the folds alone. The site's own
    models of all patients need nothing: they stand where a worker would have nothing to do.
    """
    recipe, folds = workspace.recipe, range(len(tasks))
    n_inner, tries = n_inner_folds(recipe), trainings(recipe)
    own: list[_Unit] = [(_train_on_all, m, 1.0) for m in range(recipe.final.members)]

    def filled(units: list[_Unit]) -> list[_Unit]:
        n = -len(units) % workers
        taken, own[:n] = own[:n], []
        return units + taken

    yield filled([(_train_inner, (k, i), 1.0) for k in folds for i in range(n_inner)])
    yield [(_screen, k, 0.0) for k in folds]
    yield filled([(_try, (k, i), 1.0) for k in folds for i in range(tries)])
    yield [(_enhance, k, float(steps(tasks[0]) - n_inner - tries)) for k in folds] + own


def _ground_of(workspace: Workspace, tasks: Sequence[Task], mode: Mode, passing: Path) -> _Ground:
    vectors = handed(tasks[0].vectors, passing / "received")
    together = [handed(task.globals, passing / f"fold_{task.fold}") for task in tasks]
    folders = [task.folder for task in tasks]
    return _Ground(workspace.site, workspace.recipe, vectors, together, folders, tasks[0].kin, mode)


def _crew(ground: _Ground, workers: int) -> Crew:
    data = ground.site.file.data
    # Bags that do not fit into every worker's share of the memory are mapped from the cache on disk, once for all.
    own = replace(ground.site.file, threads=1, data=replace(data, cache_gib=data.cache_gib / workers))
    ground = replace(ground, site=replace(ground.site, file=own))
    remedy = "The same again goes on; set fewer 'workers', or a smaller data.cache_gib, in site.yaml"
    return Crew(workers, _begin, ground, where=ground.site.state, remedy=remedy)


def _begin(ground: _Ground) -> None:
    global _opened  # noqa: PLW0603 (a worker process is one worker)
    torch.set_num_threads(1)
    stack = ExitStack()
    stack.enter_context(to_tensorboard(ground.site.tensorboard))
    vectors = {name: one.open() for name, one in ground.vectors.items()}
    together = [{name: one.open() for name, one in each.items()} for each in ground.together]
    workspace = Workspace.open(ground.site, ground.recipe)
    tasks = [
        Task(workspace, k, vectors, folder, ground.kin, each)
        for k, (folder, each) in enumerate(zip(ground.folders, together, strict=True))
    ]
    _opened = _Opened(workspace, tasks, ground.mode, stack)


def _train(fold: int, progress: Progress) -> None:
    assert _opened is not None
    _opened.workspace.train_local(fold, progress)


def _do(unit: tuple[Callable[[Any, Progress], Any], Any], progress: Progress) -> Any:
    do, one = unit
    return do(one, progress)


def _train_on_all(member: int, progress: Progress) -> None:
    assert _opened is not None
    _opened.workspace.train_on_all(member, progress)


def _train_inner(unit: tuple[int, int], progress: Progress) -> None:
    assert _opened is not None
    train_inner(_opened.workspace, *unit, progress)


def _screen(fold: int, progress: Progress) -> None:
    assert _opened is not None
    screen_fold(_opened.tasks[fold], _opened.mode)


def _try(unit: tuple[int, int], progress: Progress) -> None:
    assert _opened is not None
    fold, i = unit
    try_steph(_opened.tasks[fold], i, progress, _opened.mode)


def _enhance(fold: int, progress: Progress) -> FoldResult:
    assert _opened is not None
    recipe = _opened.workspace.recipe
    before = n_inner_folds(recipe) + trainings(recipe)  # trainings that are done

    def rest(done: float, of: float) -> None:
        progress(max(0.0, done - before), of - before)

    return enhance_fold(_opened.tasks[fold], rest, _opened.mode)


def _finish(unit: tuple[int, Sequence[FoldResult], Path], progress: Progress) -> None:
    assert _opened is not None
    m, folds, folder = unit
    task = _opened.tasks[0]
    train_enhanced_member(_opened.workspace, folds, task.vectors, folder, m, progress, task.kin)
