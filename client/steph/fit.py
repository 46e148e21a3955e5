"""Train STEPH on a target's bags, and tell whether it collapsed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from client.batch import batches
from client.data.bags import Cohort
from client.local import start_head
from client.steph.mixture import Mixture
from client.steph.model import Steph
from client.training import Checkpoint, derive_seed, fit
from common.config import Recipe

COLLAPSED_BELOW = 1e-3


def fit_steph(
    cohort: Cohort,
    mixture: Mixture,
    recipe: Recipe,
    *,
    gamma: float,
    label: str,
    device: torch.device,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Steph:
    """Train the hypernetworks and a fresh head on all of ``cohort``.

    Args:
        gamma: weight of the aggregation loss.
        label: names the training part; each has a seed of its own.

    Returns:
        the model of the last epoch, in evaluation mode, on ``device``.
    """
    seed = derive_seed(recipe.training.seed, "steph", label)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Steph(mixture.to(device), recipe.steph, recipe.model.dropout)
    start_head(model.head, recipe.model.head_bias, cohort)
    fit(
        model,
        lambda batch: model.loss(batch, gamma=gamma, alpha=recipe.training.alpha),
        cohort,
        recipe.training,
        n_bins=recipe.model.n_bins,
        seed=seed,
        device=device,
        checkpoint=Checkpoint(checkpoint) if checkpoint else None,
        on_epoch=on_epoch,
    )
    return model


@torch.no_grad()
def collapsed(model: Steph, cohort: Cohort, device: torch.device) -> bool:
    """Whether all kept w are below 1e-3 on average over the cohort's bags: ``M0`` plus a head is left."""
    model.to(device).eval()
    largest = [
        model.route(batch.bags, batch.mask).w.amax(dim=1)
        for _, batch in batches(cohort, range(len(cohort)), model.head.out_features, device)
    ]
    return float(torch.cat(largest).mean()) < COLLAPSED_BELOW
