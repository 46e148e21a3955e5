"""Trains a site's own models, one per fold; :meth:`Workspace.local_model` reads them."""

from __future__ import annotations

from fedsteph.client.models.local_file import train_file
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.abmil import ABMIL


def train_own(workspace: Workspace, fold: int, progress: Progress = silent) -> ABMIL:
    """Train the site's own model of a fold, unless it was trained before, and return it."""
    path, recipe, label = workspace.local_path(fold), workspace.recipe, f"fold {fold}"
    train_file(path, workspace.train_part(fold), recipe, label=label, device=workspace.device, progress=progress)
    return workspace.local_model(fold)


def train_every_fold(workspace: Workspace) -> None:
    """Train the site's own models that are missing."""
    for fold in range(len(workspace.splits)):
        train_own(workspace, fold)
