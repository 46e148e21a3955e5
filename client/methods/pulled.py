"""Trains the base model at the target towards what the sources know: their risks (distilled), or the merge (shrunk)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fedsteph.client.methods.ensembles import moments, received
from fedsteph.client.methods.headed import NO_HEAD, headed, merged, own_vector, scores, summed
from fedsteph.client.methods.task import Method, Task, Trained, learnable_parameters, local_alone
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.local import train_local
from fedsteph.client.training.objective import Outputs, proximal
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.common.host.progress import Progress


def distilled(task: Task, progress: Progress) -> Trained:
    """Training from M0 on the target's outcomes, and at once towards the sources' mean standardised risk.

    The loss of a step has ``eta (1 - correlation of the step's scores with the sources')`` beside the survival loss.
    """
    if not (models := received(task)):
        return local_alone(task, NO_HEAD)
    known = scores(models, task.train, task.device)
    mean, sd = moments(known)
    taught = ((known - mean) / sd).mean(dim=0).tolist()
    teacher = {patient.id: value for patient, value in zip(task.train.patients, taught, strict=True)}
    eta = task.recipe.comparators.distillation

    def beside(found: Tensor, ids: Sequence[str]) -> Tensor:
        return eta * unlikeness(found, torch.tensor([teacher[key] for key in ids], dtype=found.dtype))

    label, run = f"distilled fold {task.fold}", task.run("distilled", progress)
    model = train_local(task.train, task.recipe, label=label, run=run, beside=beside)
    return Trained(model, learnable_parameters(model))


def unlikeness(found: Tensor, wanted: Tensor) -> Tensor:
    """``1 - correlation`` of two rows ``(n,)``; 0 where one of them is constant, which has no correlation."""
    a, b = found - found.mean(), wanted - wanted.mean()
    if not bool(a.any() and b.any()):
        return found.sum() * 0.0
    apart: Tensor = 1.0 - (a @ b) / (a.norm() * b.norm())
    return apart


def shrunk(task: Task, progress: Progress) -> Trained:
    """Training that starts at the sum of all vectors with heads, and pays ``mu / 2 |theta - start|^2``."""
    if not (sources := headed(task)):
        return local_alone(task, NO_HEAD)
    start = merged(summed(own_vector(task), sources), task)
    model = copy.deepcopy(start)
    anchor = {name: tensor.detach() for name, tensor in start.named_parameters()}
    mu = task.recipe.comparators.shrinkage

    def forward(batch: Batch) -> Outputs:
        hazards = model(batch.bags, batch.mask)
        return Outputs(hazards, proximal(dict(model.named_parameters()), anchor, mu).expand(len(hazards)))

    run, seed = task.run("shrunk", progress), task.seed("shrunk")
    fit_survival(model, forward, task.train, task.recipe, seed=seed, run=run, fresh_head=False)
    return Trained(model.cpu(), learnable_parameters(model))


METHODS: dict[str, Method] = {"distilled": distilled, "shrunk": shrunk}
