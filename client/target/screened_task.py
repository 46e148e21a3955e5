"""Screens the vectors of one fold, and makes the task of merging those that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedsteph.client.evaluation.inner_folds import InnerFold
from fedsteph.client.methods.task import Task, vectors_digest
from fedsteph.client.screening.screen import Screening, screen
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.sharing.shared_model import kept_model
from fedsteph.client.site.policy import Mode
from fedsteph.common.vector.task_vector import TaskVector


def screened(task: Task, inner: Sequence[InnerFold], mode: Mode) -> Screening:
    """Judge every received vector on inner validation, and against copies of the target's own vectors."""
    sharing = task.recipe.sharing
    # The shared model too: it was trained on fold 0's patients, so a copy of its vector has seen other folds' test
    # patients and would look good in every validation.
    models = [model for model in (task.local, kept_model(task.workspace)) if model is not None]
    own = [as_received(TaskVector.between(model, task.m0), sharing) for model in models]
    return screen(inner, task.vectors, own, task.recipe, mode=mode, device=task.device)


def merging(task: Task, screening: Screening) -> Task:
    """The task with the vectors that passed screening; if they differ from the received ones, in a separate folder."""
    if all(verdict.weight == 1.0 for verdict in screening.verdicts.values()):
        return task
    folder = task.folder / f"screened-{vectors_digest([screening.vectors])[:12]}"
    return replace(task, vectors=screening.vectors, folder=folder)
