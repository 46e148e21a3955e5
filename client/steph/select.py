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

    ``local`` and ``steph`` are C over all inner folds' comparable pairs, None where there is none; in each fold,
    ``steph`` has the gamma that the other folds choose.
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
    """The gamma of the highest pooled C, and what STEPH is worth beside the local model.

    STEPH is scored in each inner fold under the gamma that the *other* folds choose: under the best gamma of all,
    the largest of several scores would be held against the local model's one.
    """
    names = {key.partition("/")[0] for key in scores}
    folds = [{name: scores[f"{j}/{name}"] for name in _names(recipe)} for j in sorted(names, key=int)]
    gamma, reason = _best_gamma(folds, recipe)
    held_out = [fold[str(_best_gamma(folds[:j] + folds[j + 1 :], recipe)[0])] for j, fold in enumerate(folds)]
    local = [fold["local"] for fold in folds]
    return Selection(gamma, reason, _pooled(local), _pooled(held_out), sum(score.comparable for score in local))


def _best_gamma(folds: list[dict[str, _Score]], recipe: Recipe) -> tuple[float, str]:
    """The gamma of the highest pooled C, ties to the smallest, and why.

    One under which an inner fold collapsed is left out where another did not: it would collapse again.
    """
    grid = sorted(gammas(recipe))
    if recipe.steph.gamma != "cv":
        return grid[0], "fixed in the configuration"
    sound = [gamma for gamma in grid if not any(fold[str(gamma)].collapsed for fold in folds)] or grid
    c_by_gamma = {gamma: _pooled([fold[str(gamma)] for fold in folds]) for gamma in sound}
    best = max(sound, key=lambda gamma: (c_by_gamma[gamma] or 0.0, -gamma))
    if c_by_gamma[best] is None:
        return best, "the smallest of the grid, because inner cross-validation has no comparable pair"
    left_out = f", {len(grid) - len(sound)} left out as collapsed there" if len(sound) < len(grid) else ""
    return best, f"best of {len(grid)} in {recipe.steph.inner_folds}-fold inner cross-validation{left_out}"


def _pooled(scores: Sequence[_Score]) -> float | None:
    """C over the comparable pairs of several folds, all pairs weighing the same."""
    n = sum(score.comparable for score in scores)
    return sum(score.concordant for score in scores) / n if n else None


def _names(recipe: Recipe) -> list[str]:
    return ["local", *(str(gamma) for gamma in gammas(recipe))]


def _read(cache: Path) -> dict[str, _Score]:
    if not cache.exists():
        return {}
    return {name: _Score(**score) for name, score in json.loads(cache.read_text()).items()}
