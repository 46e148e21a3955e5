"""A survival model from its start to its end: where its head begins, the recipe, and Cox's baseline afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import predict_hazards
from fedsteph.client.training.cox import fitted_baseline, log_odds
from fedsteph.client.training.loop import Checkpoint, fit
from fedsteph.client.training.objective import Forward
from fedsteph.common.config.recipe import Recipe, TrainingConfig
from fedsteph.common.model.survival import bin_of, empirical_hazard

OnEpoch = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """For those who do not want to know how far a training is."""


def steph_training(recipe: Recipe) -> TrainingConfig:
    """STEPH's training: the base models' and the comparators', but for what ``steph`` says of its own."""
    training, steph = recipe.training, recipe.steph
    epochs = steph.epochs or training.epochs
    warmup = min(training.warmup_epochs, float(epochs))
    return replace(training, epochs=epochs, warmup_epochs=warmup, lr=steph.lr or training.lr)


def fit_survival(
    model: nn.Module,
    forward: Forward,
    cohort: Cohort,
    recipe: Recipe,
    training: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    fresh_head: bool = True,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch = silent,
    name: str = "",
) -> None:
    """Train ``model``, which has a ``head``, in place; it is left in evaluation mode on ``device``.

    Args:
        forward: the model's outputs in training.
        fresh_head: start the head as the recipe says; else it goes on from where it is.
        name: as :func:`fedsteph.client.training.loop.fit` has it.
    """
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    if fresh_head:
        start_head(head, recipe, cohort)
    fit(
        model,
        forward,
        cohort,
        training,
        n_bins=recipe.model.n_bins,
        seed=seed,
        device=device,
        checkpoint=Checkpoint(checkpoint) if checkpoint else None,
        on_epoch=on_epoch,
        name=name,
    )
    if training.loss == "cox":
        _settle_baseline(model, head, cohort, recipe.model.n_bins, device)


def start_head(head: nn.Linear, recipe: Recipe, cohort: Cohort) -> None:
    """Set where a head starts: its bias at PyTorch's ``default`` or at the training part's ``empirical`` hazard.

    From the default every hazard starts at 0.5 and the recipe's epochs go into unlearning that on a small
    site. Under Cox's loss all bins have the same weights, so that there is one log-risk.
    """
    n_bins = head.out_features
    with torch.no_grad():
        if recipe.training.loss == "cox":
            head.weight.copy_(head.weight.mean(dim=0, keepdim=True).expand_as(head.weight))
        if recipe.model.head_bias == "empirical":
            hazard = torch.from_numpy(empirical_hazard(bin_of(cohort.times, n_bins), cohort.events, n_bins))
            head.bias.copy_(torch.logit(hazard))


def _settle_baseline(model: nn.Module, head: nn.Linear, cohort: Cohort, n_bins: int, device: torch.device) -> None:
    # Cox's loss says nothing of the level of a hazard: the training part's outcomes do.
    hazards = torch.from_numpy(predict_hazards(model, cohort, n_bins, device))
    score = log_odds(hazards) - float(head.bias.detach().double().mean())
    with torch.no_grad():
        head.bias.copy_(fitted_baseline(score, bin_of(cohort.times, n_bins), cohort.events, n_bins))
