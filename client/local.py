"""A site's own model: ABMIL trained from M0 on one training part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from client.batch import Batch
from client.data.bags import Cohort
from client.training import Checkpoint, derive_seed, fit
from common.abmil import ABMIL, pinned_model
from common.config import Recipe
from common.survival import bin_of, empirical_hazard, nll


def train_local(
    cohort: Cohort,
    recipe: Recipe,
    *,
    label: str,
    device: torch.device,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> ABMIL:
    """Train ABMIL from the federation's M0 on all of ``cohort``.

    Args:
        label: names the training part; each has a seed of its own.

    Returns:
        the model of the last epoch, on the CPU, in evaluation mode.
    """
    model = pinned_model(recipe.model)
    n_bins = recipe.model.n_bins
    start_head(model.head, recipe.model.head_bias, cohort)

    def loss(batch: Batch) -> Tensor:
        return nll(model(batch.bags, batch.mask), batch.bins, batch.events, recipe.training.alpha)

    fit(
        model,
        loss,
        cohort,
        recipe.training,
        n_bins=n_bins,
        seed=derive_seed(recipe.training.seed, "local", label),
        device=device,
        checkpoint=Checkpoint(checkpoint) if checkpoint else None,
        on_epoch=on_epoch,
    )
    return model.cpu()


def start_head(head: nn.Linear, mode: str, cohort: Cohort) -> None:
    """Set where a head's bias starts: PyTorch's ``default``, or the training part's ``empirical`` hazard.

    From the default every hazard starts at 0.5 and the recipe's epochs go into unlearning that on a small
    site.
    """
    if mode == "default":
        return
    n_bins = head.out_features
    hazard = torch.from_numpy(empirical_hazard(bin_of(cohort.times, n_bins), cohort.events, n_bins))
    with torch.no_grad():
        head.bias.copy_(torch.logit(hazard))
