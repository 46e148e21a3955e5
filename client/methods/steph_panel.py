"""The panel, behind the comparators' interface: STEPH, and the local and received models that predict with it."""

from __future__ import annotations

from fedsteph.client.methods.ablations import STEPH, validate
from fedsteph.client.methods.task import Task, Trained
from fedsteph.client.panel.fit_panel import set_panel
from fedsteph.client.steph.model import Steph
from fedsteph.common.host.progress import Progress


def panel(task: Task, progress: Progress) -> Trained:
    """STEPH with its panel, whose weights inner cross-validation moves from those that are expected."""
    selection, trained = validate(task, "steph", task.recipe), STEPH(task, progress)
    assert isinstance(trained.model, Steph)
    weights = task.members.received.weights(selection.weights, task.recipe.panel)
    set_panel(trained.model, task.members, weights, task.train, task.device)
    notes = {**trained.notes, "weights": weights}
    return Trained(trained.model, trained.learnable + len(weights), notes)
