"""Trains a survival model: initialises its head, runs the recipe's training, then fits Cox's baseline hazards."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import head_of, predict_hazards
from fedsteph.client.training.cox import fitted_baseline, log_odds
from fedsteph.client.training.loop import fit
from fedsteph.client.training.objective import Forward, StepLoss
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.steph_epochs import followed_epochs
from fedsteph.common.model.survival import bin_of, empirical_hazard


def for_steph(recipe: Recipe) -> Recipe:
    """The recipe with STEPH's training settings: those of base models with the overrides in ``recipe.steph``."""
    training, steph = recipe.training, recipe.steph
    epochs = steph.epochs or followed_epochs(recipe)
    warmup = min(training.warmup_epochs, float(epochs))
    least = 0 if steph.epochs else round(training.min_steps * steph.epochs_factor)
    changed = replace(training, epochs=epochs, min_steps=least, warmup_epochs=warmup, lr=steph.lr or training.lr)
    return replace(recipe, training=changed)


def fit_survival(
    model: nn.Module,
    forward: Forward,
    cohort: Cohort,
    recipe: Recipe,
    *,
    seed: int,
    run: TrainingRun,
    fresh_head: bool = True,
    beside: StepLoss | None = None,
) -> None:
    """Train ``model``, which has a linear ``head``, in place; it is left in evaluation mode on the run's device.

    Args:
        forward: computes the model's outputs in training.
        fresh_head: initialise the head as the recipe says; otherwise keep its values.
        beside: a further loss on every step, added to the survival loss.

    Raises:
        FedstephError: as :func:`fedsteph.client.training.loop.fit`.
    """
    head = head_of(model)
    if fresh_head:
        start_head(head, recipe, cohort)
    fit(model, forward, cohort, recipe.training, seed=seed, run=run, beside=beside)
    if recipe.training.loss == "cox":
        # Cox's loss does not determine the level of the hazards: fit it to the outcomes of the training part.
        score = log_odds(torch.from_numpy(predict_hazards(model, cohort, run.device)))
        score -= float(head.bias.detach().cpu().double().mean())
        bins = bin_of(cohort.times, head.out_features)
        with torch.no_grad():
            head.bias.copy_(fitted_baseline(score, bins, cohort.events, head.out_features).float())


def start_head(head: nn.Linear, recipe: Recipe, cohort: Cohort) -> None:
    """Initialise a head: its bias stays PyTorch's ``default``, or is set to the training part's ``empirical`` hazard.

    With the default, every hazard starts at 0.5, and on a small site the recipe's epochs go into unlearning
    that. Under Cox's loss, all bins have the same weights, so that there is one log-risk.
    """
    n_bins = head.out_features
    with torch.no_grad():
        if recipe.training.loss == "cox":
            head.weight.copy_(head.weight.mean(dim=0, keepdim=True).expand_as(head.weight))
        if recipe.model.head_bias == "empirical":
            hazard = torch.from_numpy(empirical_hazard(bin_of(cohort.times, n_bins), cohort.events, n_bins))
            head.bias.copy_(torch.logit(hazard))
