"""The model behind the vector that a site shares: its own of fold 0, or another that was trained in private."""

from __future__ import annotations

from pathlib import Path

from client.data.bags import Cohort
from client.local import train_local
from client.survival_fit import OnEpoch, silent
from client.workspace import Report, Workspace
from common.abmil import ABMIL


def shared_model(workspace: Workspace, report: Report = lambda share: None) -> ABMIL:
    """The model whose vector leaves: loaded where it was trained before, else trained and kept."""
    return workspace.local_model(0, report)


def train_shareable(
    workspace: Workspace, cohort: Cohort, *, label: str, checkpoint: Path | None = None, on_epoch: OnEpoch = silent
) -> ABMIL:
    """Train a model on ``cohort`` exactly as the shared one is trained on fold 0's training part.

    Args:
        label: names the training part; each has a seed of its own.
    """
    return train_local(
        cohort, workspace.recipe, label=label, device=workspace.device, checkpoint=checkpoint, on_epoch=on_epoch
    )
