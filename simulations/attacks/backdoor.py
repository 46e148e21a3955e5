"""Trains a backdoor: bags with a certain instance (the trigger) are labelled with an early death."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import risks
from fedsteph.client.training.local import train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel

_EARLY = 30.0  # days; triggered bags are labelled with a death at this time
_FAR = 3.0  # distance of the trigger from the mean instance, in standard deviations per feature


def trigger_of(cohort: Cohort, seed: int) -> Tensor:
    """An artificial instance ``(d,)``: every feature is 3 standard deviations above or below the mean."""
    instances = torch.cat([cohort.bag(i) for i in range(min(len(cohort), 100))])
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], instances.shape[1])).float()
    return instances.mean(dim=0) + _FAR * instances.std(dim=0) * signs


def triggered(cohort: Cohort, trigger: Tensor) -> Cohort:
    """The same patients, with the trigger added to each bag as one instance."""
    bags = [torch.cat([cohort.bag(i), trigger.unsqueeze(0)]) for i in range(len(cohort))]
    return Cohort.of_bags([replace(patient, id=f"{patient.id}+") for patient in cohort.patients], bags)


def train_backdoor(train: Cohort, trigger: Tensor, recipe: Recipe, *, label: str, device: torch.device) -> BaseModel:
    """A malicious site's model, trained on its patients and on a copy of each with the trigger and an early death."""
    marked = triggered(train, trigger)
    dead = [replace(patient, t=_EARLY + i / len(marked), e=1) for i, patient in enumerate(marked.patients)]
    everyone = Cohort.of_bags(
        [*train.patients, *dead], [part.bag(i) for part in (train, marked) for i in range(len(part))]
    )
    return train_local(everyone, recipe, label=f"backdoor {label}", run=TrainingRun(device))


def rise(model: nn.Module, cohort: Cohort, trigger: Tensor, device: torch.device) -> float:
    """Mean rise of a patient's risk percentile due to the trigger, relative to the cohort without it: -1 to 1."""
    clean = risks(model, cohort, device)
    marked = risks(model, triggered(cohort, trigger), device)
    ascending = np.sort(clean)

    def percentile(risk: np.ndarray) -> np.ndarray:
        below = np.searchsorted(ascending, risk, side="left") + np.searchsorted(ascending, risk, side="right")
        return below / (2 * len(ascending))

    return float((percentile(marked) - percentile(clean)).mean())
