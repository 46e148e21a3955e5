"""Merging heads too: sums and means of vectors with the head's risk direction, and baseline hazards of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.methods.averaging import best_coefficient
from fedsteph.client.methods.task import Method, Task, Trained, local_alone
from fedsteph.client.training.batch import batches
from fedsteph.client.training.cox import fitted_baseline
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.encode import encode
from fedsteph.common.model.survival import bin_of
from fedsteph.common.vector.task_vector import TaskVector, mean

NO_HEAD = "no source's vector has a head"
# The target's own vector and the sources', all with heads, to one vector.
Rule = Callable[[TaskVector, Sequence[TaskVector]], TaskVector]


def headed(task: Task) -> list[TaskVector]:
    """The received vectors that have a head."""
    return [vector for vector in task.sources if vector.has_head]


def summed(own: TaskVector, sources: Sequence[TaskVector]) -> TaskVector:
    """``tau_t + sum_k tau_k``."""
    return reduce(add, sources, own)


def own_vector(task: Task) -> TaskVector:
    """The target's own vector of this fold, with its head."""
    return TaskVector.between(task.local, task.m0, head=True)


def score(model: BaseModel, bags: Tensor, mask: Tensor | None) -> Tensor:
    """Log-risk of bags up to a constant, ``z . direction``: ``(n_bags, n_instances, d) -> (n_bags,)``."""
    return encode(model.architecture, model.encoder_state(), bags, mask)[0] @ model.head.weight.mean(dim=0)


@torch.no_grad()
def scores(models: Sequence[BaseModel], cohort: Cohort, device: torch.device) -> Tensor:
    """Every model's :func:`score` of every patient, ``(n_models, n_patients)`` float64; it moves the models there."""
    moved = [model.to(device).eval() for model in models]
    found, order = [], list[int]()
    for group, batch in batches(cohort, range(len(cohort)), moved[0].architecture.n_bins, device):
        found.append(torch.stack([score(model, batch.bags, batch.mask) for model in moved]))
        order += group
    placed = torch.empty(len(models), len(cohort), dtype=torch.float64)
    placed[:, order] = torch.cat(found, dim=1).cpu().double()
    return placed


@torch.no_grad()
def fit_baseline(model: BaseModel, cohort: Cohort, device: torch.device) -> None:
    """Fit the baseline hazards of a model whose bins all have the same weights to a cohort's outcomes, in place."""
    n_bins = model.architecture.n_bins
    (own,) = scores([model], cohort, device)
    bias = fitted_baseline(own, bin_of(cohort.times, n_bins), cohort.events, n_bins)
    model.head.bias.copy_(bias.float())


def merged(vector: TaskVector, task: Task) -> BaseModel:
    """``M0`` plus a vector with a head, under baseline hazards of the training patients, on the CPU."""
    model = vector.merged_model(task.m0, torch.zeros(task.m0.architecture.n_bins))
    fit_baseline(model, task.train, task.device)
    return model.cpu()


def merging(rule: Rule) -> Method:
    """The method that merges by ``rule`` what has a head; it learns the baseline hazards alone."""

    def method(task: Task, progress: Progress) -> Trained:
        if not (sources := headed(task)):
            return local_alone(task, NO_HEAD)
        return Trained(merged(rule(own_vector(task), sources), task), task.m0.architecture.n_bins)

    return method


def head_arithmetic(task: Task, progress: Progress) -> Trained:
    """``M0 + c (tau_t + sum_k tau_k)`` with heads, and a single ``c``, chosen by inner validation."""
    if not (sources := headed(task)):
        return local_alone(task, NO_HEAD)

    def scaled(local: BaseModel, c: float) -> BaseModel:
        vector = c * summed(TaskVector.between(local, task.m0, head=True), sources)
        return vector.merged_model(task.m0, local.head.bias.detach())  # no baseline changes the order of patients

    c = best_coefficient(task, scaled, progress)
    model = merged(c * summed(own_vector(task), sources), task)
    return Trained(model, task.m0.architecture.n_bins, {"coefficient": c})


METHODS: dict[str, Method] = {
    "head_sum": merging(summed),
    "head_mean": merging(lambda own, sources: mean([own, *sources])),
    "head_arithmetic": head_arithmetic,
    "sources_alone": merging(lambda own, sources: mean(sources)),
}
