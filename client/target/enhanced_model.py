"""STEPH's model of one fold: trained and saved with its percentiles and the local model, or loaded if it exists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedsteph.client.methods.task import Task
from fedsteph.client.models.model_file import Local, followed_years, load_model, reference_risks, save_steph
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.steph.dynamics import Dynamics
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.steph.model import Steph
from fedsteph.common.host.checked_file import kept
from fedsteph.common.host.progress import Progress

DYNAMICS_FILE = "dynamics.json"  # beside an enhanced model: w and lam by epoch of its training


@dataclass(frozen=True)
class Enhanced:
    """An enhanced model, its file, and the percentiles ``(101,)`` of the training patients' risks under both models."""

    path: Path
    steph: Steph
    reference: np.ndarray
    local_reference: np.ndarray


def enhanced_model(task: Task, gamma: float, progress: Progress) -> Enhanced:
    """Train STEPH on the fold's training patients, unless its file exists; gamma weighs the aggregation loss."""
    path = task.folder / "steph.safetensors"
    load = partial(load_model, dropout=task.recipe.model.dropout)
    loaded = kept(path, load)
    if loaded is None:
        _train(task, gamma, path, progress)
        loaded = load(path)
    assert isinstance(loaded.model, Steph)
    # Files of earlier versions have no percentiles.
    own, local = loaded.reference, None if loaded.local is None else loaded.local.reference
    own = reference_risks(loaded.model, task.train, task.device) if own is None else own
    local = reference_risks(task.local, task.train, task.device) if local is None else local
    return Enhanced(path, loaded.model, own, local)


def _train(task: Task, gamma: float, path: Path, progress: Progress) -> None:
    names = list(task.vectors)
    fitted = fit_steph(
        task.train,
        task.local,
        task.sources,
        task.recipe,
        gamma=gamma,
        label=f"fold {task.fold}",
        run=task.run("steph", progress),
        dynamics=Dynamics(path.with_name(DYNAMICS_FILE), names),
    )
    save_steph(
        path,
        fitted,
        names,
        m0_sha256=str(task.recipe.model.m0_sha256),
        extraction=task.workspace.cohort.extraction,
        reference=reference_risks(fitted, task.train, task.device),
        local=Local(task.local, reference_risks(task.local, task.train, task.device)),
        followed_years=followed_years(task.train, task.recipe.model.n_bins),
        trained_on=TrainedOn.of(task.train, fitted),
    )
