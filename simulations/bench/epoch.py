"""Measures the share of a training epoch of ABMIL that waits for data, with features cached on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.training.loader import Loader
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.data_path import write_site

_CPU = torch.device("cpu")


def measure(n_slides: int, n_instances: int) -> dict[str, Any]:
    """Train two epochs over slides in one-row chunks of float32; the first fills the disk cache, the second reads it.

    Returns JSON-ready: each epoch's seconds and the share of them that it waited for a bag; of the second, this too.
    """
    with TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        write_site(site, n_slides, n_instances, models.SIZES.width)
        cohort = open_cohort(site, DataSettings(cache_gib=0, disk_cache="stored"), Path(folder) / "state")
        first, second = _epoch(cohort), _epoch(cohort)
    found = {"slides": n_slides, "instances": n_instances, "first": first, "second": second}
    return found | {"waiting_share": second["waiting_share"]}


def _epoch(cohort: Cohort) -> dict[str, float]:
    model, training = models.abmil().train(), TrainingConfig()
    forward, optimiser = models.forward_of(model), models.optimiser(model)
    steps = [list(range(i, min(i + 16, len(cohort)))) for i in range(0, len(cohort), 16)]
    with Loader(cohort, steps, models.SIZES.n_bins, _CPU) as loader:
        for step, stacks in zip(steps, loader, strict=True):
            optimiser.zero_grad(set_to_none=True)
            backward(forward, stacks, len(step), training)
            optimiser.step()
        return {"seconds": loader.seconds, "waiting_share": loader.waiting_share}
