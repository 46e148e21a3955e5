"""STEPH's model of one fold, alone and with its panel: made and saved with its percentiles, or loaded if it exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fedsteph.client.methods.task import Task
from fedsteph.client.models.enhanced_file import train_enhanced
from fedsteph.client.models.model_file import load_model, reference_risks, save_steph
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.client.panel.fit_panel import set_panel
from fedsteph.client.steph.model import Steph
from fedsteph.common.host.checked_file import kept
from fedsteph.common.host.progress import Progress

PANEL_FILE = "panel.safetensors"  # beside the enhanced model's own


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


def with_panel(task: Task, enhanced: Enhanced, weights: Mapping[str, float]) -> Enhanced:
    """The same enhanced model with its panel, in a file of its own, unless that exists.

    Args:
        weights: group -> weight, by inner cross-validation; of groups that it lacks, what is expected.
    """
    path = task.folder / PANEL_FILE
    loaded = kept(path, load_model)
    if loaded is None:
        loaded = load_model(enhanced.path)
        model = loaded.model
        assert isinstance(model, Steph) and loaded.local is not None
        weights = task.members.received.weights(weights, task.recipe.panel)
        set_panel(model, task.members, weights, task.train, task.device)
        save_steph(
            path,
            model,
            loaded.sources,
            m0_sha256=loaded.m0,
            extraction=loaded.extraction,
            reference=reference_risks(model, task.train, task.device),
            local=loaded.local,
            followed_years=loaded.followed_years,
            trained_on=TrainedOn.of(task.train, model),
        )
        loaded = load_model(path)
    assert isinstance(loaded.model, Steph) and loaded.reference is not None
    return Enhanced(path, loaded.model, loaded.reference, enhanced.local_reference)


def _train(task: Task, gamma: float, path: Path, progress: Progress) -> None:
    label, run = f"fold {task.fold}", task.run("steph", progress)
    train_enhanced(path, task.train, task.local, task.mixed, task.recipe, gamma=gamma, label=label, run=run)
