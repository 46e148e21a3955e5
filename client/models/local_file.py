"""Files of local models: trains a model if its file is missing, and loads a trained one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedsteph.client.data.bags import Cohort
from fedsteph.client.models.model_file import followed_years, load_base, reference_risks, save_base
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.training.local import train_local
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host.checked_file import kept
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.base_model import BaseModel


def train_file(
    path: Path,
    cohort: Cohort,
    recipe: Recipe,
    *,
    label: str,
    device: torch.device,
    progress: Progress = silent,
    with_reference: bool = True,
) -> BaseModel:
    """Train a local model on all of ``cohort`` and save it, or load it if it was trained before.

    A damaged file is set aside, and the model trained again; it has the same weights.

    Args:
        label: name of the training part, from which the seed is derived.
        with_reference: save the percentiles of the cohort's risks too, how many years it was followed, and digests of
            its patients' IDs.

    Raises:
        FedstephError: as :func:`fedsteph.client.training.loop.fit`.
    """
    load = partial(load_base, dropout=recipe.model.dropout)
    if (found := kept(path, load)) is not None:
        return found
    run = TrainingRun(device, path.with_suffix(".checkpoint"), progress)
    model = train_local(cohort, recipe, label=label, run=run)
    told: dict[str, Any] = {"m0_sha256": str(recipe.model.m0_sha256), "extraction": cohort.extraction}
    if with_reference:
        told["reference"] = reference_risks(model, cohort, device)
        told["followed_years"] = followed_years(cohort, recipe.model.n_bins)
        told["trained_on"] = TrainedOn.of(cohort, model)
    save_base(path, model, **told)
    return load(path)


def require_trained(path: Path) -> None:
    """Raise ModelFileError if there is no model of an earlier phase."""
    if not path.exists():
        raise ModelFileError("was not trained yet", where=path, remedy="Start the run again; its first phase trains it")
