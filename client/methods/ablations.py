"""Ablations of STEPH, and STEPH itself, behind the comparators' interface."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsteph.client.evaluation.decision import Selection
from fedsteph.client.evaluation.select import select
from fedsteph.client.methods.task import Method, Task, Trained, learnable_parameters
from fedsteph.client.steph.fit import collapsed, fit_steph
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.host.progress import Progress


def ablation(name: str, *, own_as_source: bool = False, **changes: Any) -> Method:
    """STEPH under a recipe with ``changes`` in its ``steph`` section; gamma is chosen as for STEPH.

    ``own_as_source``: also use the target's own vector as one of the weighted sources.
    """

    def method(task: Task, progress: Progress) -> Trained:
        recipe = replace(task.recipe, steph=replace(task.recipe.steph, **changes))
        sources = [*([task.own] if own_as_source else []), *task.mixed.values()]
        gamma = recipe.steph.gamma
        if gamma == "cv":
            gamma = validate(task, name, recipe, own_as_source=own_as_source).gamma
        label = f"fold {task.fold}" if name == "steph" else f"{name} fold {task.fold}"
        run = task.run(name, progress)
        model = fit_steph(task.train, task.local, sources, recipe, gamma=gamma, label=label, run=run)
        notes = {"gamma": gamma, "collapsed": collapsed(model, task.train, task.device)}
        return Trained(model, learnable_parameters(model), notes)

    return method


def validate(task: Task, name: str, recipe: Recipe, *, own_as_source: bool = False) -> Selection:
    """Inner validation of a STEPH on this fold's training patients; finished trainings are cached on disk."""
    sources, groups = list(task.mixed.values()), None if own_as_source else task.members.received
    folder = task.folder / f"{name}.inner"
    inner, device = task.inner, task.device
    return select(inner, sources, recipe, device=device, folder=folder, own_as_source=own_as_source, groups=groups)


STEPH = ablation("steph")
METHODS: dict[str, Method] = {
    "steph_lam0": ablation("steph_lam0", variant="fix", fixed_lam=0.0, start_mass=1.0),
    "steph_lam0_all": ablation("steph_lam0_all", own_as_source=True, variant="fix", fixed_lam=0.0, start_mass=1.0),
    "steph_lam1": ablation("steph_lam1", variant="fix", fixed_lam=1.0, start_mass=1.0),
    "steph_param_lam": ablation("steph_param_lam", variant="param"),
    "steph_dense": ablation("steph_dense", K=None),
    "steph_param_w": ablation("steph_param_w", weights="param"),
}
