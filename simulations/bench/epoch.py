"""Measures the share of a training epoch of ABMIL that waits for data, with features cached on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.training.loader import Loader
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.data_path import write_site
from fedsteph.simulations.bench.steps import BAGS

_CPU = torch.device("cpu")


def measure(n_slides: int, n_instances: int) -> dict[str, Any]:
    """Train two epochs over slides in one-row chunks of float32; the first fills the disk cache, the second reads it.

    Returns JSON-ready: each epoch's seconds and the share of them that it waited for a bag; of the second, this too.
    """
    with TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        write_site(site, n_slides, n_instances, models.SIZES.width)
        cohort = open_cohort(site, DataSettings(cache_gib=0, disk_cache="stored"), Path(folder) / "state")
        model = models.abmil()
        optimiser = models.optimiser(model)
        first, second = one_epoch(model, optimiser, cohort), one_epoch(model, optimiser, cohort)
    found = {"slides": n_slides, "instances": n_instances, "first": first, "second": second}
    return found | {"waiting_share": second["waiting_share"]}


def one_epoch(model: nn.Module, optimiser: torch.optim.Optimizer, cohort: Cohort) -> dict[str, float]:
    """Train one of fedsteph's models for an epoch, in steps of 16 bags in the cohort's order.

    Returns its seconds, the share of them that it waited for a bag, and the mean loss per bag in nats.
    """
    forward, training, loss = models.forward_of(model.train()), TrainingConfig(), torch.zeros(())
    steps = [list(range(i, min(i + BAGS, len(cohort)))) for i in range(0, len(cohort), BAGS)]
    with Loader(cohort, steps, models.SIZES.n_bins, _CPU) as loader:
        for step, stacks in zip(steps, loader, strict=True):
            optimiser.zero_grad(set_to_none=True)
            loss += len(step) * backward(forward, stacks, len(step), training)
            optimiser.step()
        told = {"seconds": loader.seconds, "waiting_share": loader.waiting_share}
    return told | {"loss": float(loss) / len(cohort)}
