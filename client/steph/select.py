"""Inner cross-validation on a target's training patients: which gamma, and is the merge worth deploying?

Every inner fold trains its own local model, so that neither the target's vector nor the model that STEPH is
compared with has seen the patients it is judged on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from client.batch import risks
from client.data.bags import Cohort
from client.data.splits import make_splits
from client.local import train_local
from client.steph.fit import collapsed, fit_steph
from client.steph.mixture import Mixture
from client.training import derive_seed
from common import atomic
from common.abmil import ABMIL
from common.concordance import pairs
from common.config import Recipe
from common.errors import SplitError
from common.task_vector import TaskVector

Step = Callable[[float], None]  # told how many trainings are done, fractions included


@dataclass(frozen=True)
class Selection:
    """What inner cross-validation found.

    ``local`` and ``steph`` are C over all inner folds' comparable pairs, None where there is none; ``steph`` is
    that of the chosen ``gamma``.
    """

    gamma: float
    gamma_reason: str
    local: float | None
    steph: float | None
    n_comparable: int


@dataclass(frozen=True)
class _Score:
    concordant: float
    comparable: int
    collapsed: bool = False


def gammas(recipe: Recipe) -> tuple[float, ...]:
    """The values of gamma that are tried."""
    gamma = recipe.steph.gamma
    return recipe.steph.gamma_grid if gamma == "cv" else (float(gamma),)


def trainings(recipe: Recipe) -> int:
    """How many models :func:`select` trains."""
    return recipe.steph.inner_folds * (1 + len(gammas(recipe)))


def select(
    cohort: Cohort,
    m0: ABMIL,
    sources: Sequence[TaskVector],
    recipe: Recipe,
    *,
    label: str,
    device: torch.device,
    cache: Path,
    on_step: Step = lambda done: None,
) -> Selection:
    """Choose gamma and measure STEPH against the local model, within ``cohort`` alone.

    Args:
        cohort: the training patients of one outer fold.
        cache: JSON of the trainings already scored, so that a killed selection goes on where it was.
    """
    scores: dict[str, _Score] = _read(cache)
    seed = derive_seed(recipe.training.seed, "inner", label)
    try:
        splits = make_splits(cohort.patients, recipe.steph.inner_folds, seed)
    except SplitError:
        splits = []
    for j, split in enumerate(splits):
        train, validation = cohort.subset(split.train), cohort.subset(split.test)
        names = {gamma: f"{j}/{gamma}" for gamma in gammas(recipe)}
        if all(name in scores for name in [f"{j}/local", *names.values()]):
            continue
        done = j * (1 + len(names))
        part = f"{label}, inner fold {j}"

        def on_epoch(epoch: int, total: int, done: int = done) -> None:
            on_step(done + epoch / total)

        local = train_local(train, recipe, label=part, device=device, on_epoch=on_epoch)
        scores[f"{j}/local"] = _score(local, validation, recipe.model.n_bins, device)
        mixture = Mixture.of(m0, TaskVector.between(local.cpu(), m0), sources)
        for i, (gamma, name) in enumerate(names.items(), 1):
            if name in scores:
                continue

            def on_steph_epoch(epoch: int, total: int, done: int = done + i) -> None:
                on_step(done + epoch / total)

            steph = fit_steph(train, mixture, recipe, gamma=gamma, label=part, device=device, on_epoch=on_steph_epoch)
            score = _score(steph, validation, recipe.model.n_bins, device)
            scores[name] = replace(score, collapsed=collapsed(steph, train, device))
            atomic.write_json(cache, {name: asdict(score) for name, score in scores.items()})
    return _choose(scores, recipe)


def _score(model: nn.Module, cohort: Cohort, n_bins: int, device: torch.device) -> _Score:
    found = pairs(risks(model, cohort, n_bins, device), cohort.times, cohort.events)
    return _Score(found.concordant, found.n_comparable)


def _choose(scores: dict[str, _Score], recipe: Recipe) -> Selection:
    """The gamma of the highest pooled C, ties to the smallest; without a comparable pair, the smallest.

    A gamma under which an inner fold collapsed is left out where another did not: it would collapse again.
    """

    def of(name: str) -> list[_Score]:
        return [score for key, score in scores.items() if key.partition("/")[2] == name]

    def pooled(name: str) -> float | None:
        n = sum(score.comparable for score in of(name))
        return sum(score.concordant for score in of(name)) / n if n else None

    grid = sorted(gammas(recipe))
    sound = [gamma for gamma in grid if not any(score.collapsed for score in of(f"{gamma}"))] or grid
    c_by_gamma = {gamma: pooled(f"{gamma}") for gamma in sound}
    best = max(sound, key=lambda gamma: (c_by_gamma[gamma] or 0.0, -gamma))
    if recipe.steph.gamma != "cv":
        reason = "fixed in the configuration"
    elif c_by_gamma[best] is None:
        reason = "the smallest of the grid, because inner cross-validation has no comparable pair"
    else:
        reason = f"best of {len(grid)} in {recipe.steph.inner_folds}-fold inner cross-validation"
        if len(sound) < len(grid):
            reason += f", {len(grid) - len(sound)} left out as collapsed there"
    n_comparable = sum(score.comparable for score in of("local"))
    return Selection(best, reason, pooled("local"), c_by_gamma[best], n_comparable)


def _read(cache: Path) -> dict[str, _Score]:
    if not cache.exists():
        return {}
    return {name: _Score(**score) for name, score in json.loads(cache.read_text()).items()}
