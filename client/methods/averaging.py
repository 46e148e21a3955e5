"""Merging without training: averages of task vectors, with the target's own head."""

from __future__ import annotations

from collections.abc import Callable

from fedsteph.client.methods.task import Task, Trained
from fedsteph.client.training.batch import risks
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.concordance import pairs
from fedsteph.common.vector.task_vector import TaskVector, mean


def model_average(task: Task, progress: Progress) -> Trained:
    """``M0`` plus the mean of all vectors, the target's own included."""
    return _merged(task, mean([task.own, *task.sources]))


def half_average(task: Task, progress: Progress) -> Trained:
    """``M0 + tau_t / 2 + mean(tau_k) / 2``."""
    return _merged(task, 0.5 * task.own + 0.5 * mean(task.sources))


def start_average(task: Task, progress: Progress) -> Trained:
    """``M0 + m lam tau_t + m (1 - lam) mean(tau_k)``: the starting point of STEPH under ``start: local``, untrained."""
    mass, lam = task.recipe.steph.start_mass, task.recipe.steph.start_lam
    return _merged(task, mass * lam * task.own + mass * (1.0 - lam) * mean(task.sources))


def _merged(task: Task, vector: TaskVector) -> Trained:
    return Trained(vector.applied_to(task.m0, task.local.head_state()).eval(), 0)


def task_arithmetic(task: Task, progress: Progress) -> Trained:
    """``M0 + c (tau_t + sum_k tau_k)`` with a single ``c``, chosen by inner validation (Ilharco et al., ICLR 2023)."""

    def scaled(local: BaseModel, c: float) -> BaseModel:
        return _scaled_sum(task, local, c)

    return Trained(scaled(task.local, best_coefficient(task, scaled, progress)), 0)


def _scaled_sum(task: Task, local: BaseModel, c: float) -> BaseModel:
    vectors = [TaskVector.between(local, task.m0), *task.sources]
    return (c * len(vectors) * mean(vectors)).applied_to(task.m0, local.head_state()).eval()


def best_coefficient(task: Task, scaled: Callable[[BaseModel, float], BaseModel], progress: Progress) -> float:
    """The coefficient with the highest C-index over all inner folds' pairs; the smallest if tied or without pairs.

    ``scaled`` gives the merge under a coefficient from an inner fold's local model.
    """
    grid = sorted(task.recipe.comparators.coefficients)
    concordant = dict.fromkeys(grid, 0.0)
    for j, part in enumerate(task.inner):
        for c in grid:
            risk = risks(scaled(part.local.cpu(), c), part.validation, task.device)
            # All coefficients are judged on the same pairs, so concordant counts compare like C-indices.
            concordant[c] += pairs(risk, part.validation.times, part.validation.events).concordant
        progress(j + 1, len(task.inner))
    return max(grid, key=lambda c: (concordant[c], -c))
