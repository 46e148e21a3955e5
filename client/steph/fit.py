"""Trains STEPH on a target's bags, and detects a collapse."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.steph.dynamics import COLLAPSED_BELOW, Dynamics
from fedsteph.client.steph.free_routing import settle_routing
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import Batch, batches
from fedsteph.client.training.epoch_log import tell
from fedsteph.client.training.loop import derive_seed
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.survival_fit import fit_survival, for_steph
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.seeded import seeded
from fedsteph.common.vector.task_vector import TaskVector

_log = logging.getLogger(__name__)


def fit_steph(
    cohort: Cohort,
    local: BaseModel,
    sources: Sequence[TaskVector],
    recipe: Recipe,
    *,
    gamma: float,
    label: str,
    run: TrainingRun,
    dynamics: Dynamics | None = None,
) -> Steph:
    """Train the hypernetworks and the head on all of ``cohort``; return the model after the last epoch.

    Args:
        local: the target's own model of the same training part: its vector is mixed. With ``start: local`` its head
            is mixed with the sources' heads, or is where the learned head starts if no source has one.
        gamma: weight of the aggregation loss.
        label: name of the training part, from which the seed is derived.
        dynamics: records w and lam in every epoch, which are then logged too.

    Raises:
        FedstephError: as :meth:`Mixture.of` and :func:`fedsteph.client.training.loop.fit`.
    """
    seed = derive_seed(recipe.training.seed, "steph", label)
    model = _untrained(local, sources, recipe, seed, run.device)

    def forward(batch: Batch) -> Outputs:
        routing = model.route(batch.bags, batch.mask)
        if dynamics is not None:
            dynamics.note(batch.ids, routing)
        return model.outputs(batch, gamma, routing)

    if model.hypernetwork.testable:
        p = settle_routing(model, cohort, run.device)
        _log.info("STEPH, %s: p = %.3f that all patients need the same sources", label, p)
    if dynamics is not None:
        run = _recorded(run, dynamics, f"STEPH, {label}")
    fresh_head = recipe.steph.start == "default"
    fit_survival(model, forward, cohort, for_steph(recipe), seed=seed, run=run, fresh_head=fresh_head)
    return model


def _untrained(
    local: BaseModel, sources: Sequence[TaskVector], recipe: Recipe, seed: int, device: torch.device
) -> Steph:
    m0, config = pinned_model(recipe.model), recipe.steph
    if config.start == "default":  # a new head is learned instead
        sources = [source.without_head() for source in sources]
    mixture = Mixture.of(m0, TaskVector.between(local, m0, head=True), sources, normalise=config.normalise)
    with seeded(seed):
        model = Steph(mixture.to(device), config, recipe.model.dropout)
    if config.start == "local":
        model.head.load_state_dict(local.head.state_dict())
        if mixture.heads is not None:  # the merged risk direction stands for the weights
            nn.init.zeros_(model.head.weight)
    return model


def _recorded(run: TrainingRun, dynamics: Dynamics, name: str) -> TrainingRun:
    """The same run, which also logs the loss and the recorded w and lam of every epoch."""

    def progress(epoch: float, total: float) -> None:
        tell(name, int(epoch), dynamics.end_epoch(int(epoch)))
        run.progress(epoch, total)

    return replace(run, progress=progress, name=name)


@torch.no_grad()
def collapsed(model: Steph, cohort: Cohort, device: torch.device) -> bool:
    """Whether the largest w per bag is below 1e-3 on average over the cohort: only ``M0`` plus a head is left."""
    model.to(device).eval()
    largest = [
        model.route(batch.bags, batch.mask).w.amax(dim=1)
        for _, batch in batches(cohort, range(len(cohort)), model.head.out_features, device)
    ]
    return float(torch.cat(largest).mean()) < COLLAPSED_BELOW
