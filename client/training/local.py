"""Trains a site's own model: the base model from M0 on one training part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import Batch
from fedsteph.client.training.loop import derive_seed
from fedsteph.client.training.objective import Outputs, StepLoss
from fedsteph.client.training.survival_fit import fit_survival
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector


def train_local(
    cohort: Cohort,
    recipe: Recipe,
    *,
    label: str,
    run: TrainingRun,
    start: TaskVector | None = None,
    beside: StepLoss | None = None,
) -> BaseModel:
    """Train the base model from the federation's M0 on all of ``cohort``.

    Args:
        label: name of the training part, from which the seed is derived; the log has it too.
        start: start from ``M0 + start`` instead of M0.
        beside: a further loss on every step, added to the survival loss.

    Returns:
        the model after the last epoch, on the CPU, in evaluation mode; errors as :func:`.loop.fit`.
    """
    model = pinned_model(recipe.model)
    if start is not None:
        model = start.applied_to(model, model.head_state())

    def forward(batch: Batch) -> Outputs:
        return Outputs(model(batch.bags, batch.mask))

    seed = derive_seed(recipe.training.seed, "local", label)
    named = replace(run, name=f"local, {label}")
    fit_survival(model, forward, cohort, recipe, seed=seed, run=named, beside=beside)
    return model.cpu()


def mean_model(models: Sequence[BaseModel]) -> BaseModel:
    """The model whose weights are the mean of those of at least one model of one architecture, in evaluation mode."""
    states = [model.state_dict() for model in models]
    found = BaseModel(models[0].architecture, models[0].dropout)
    found.load_state_dict({name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]})
    return found.eval()
