"""Chooses gamma, and scores STEPH and the local model, by inner cross-validation on a target's training patients.

Every inner fold has its own local model (:mod:`fedsteph.client.evaluation.inner_folds`), so that neither the target's
vector nor the model that STEPH is compared with has seen the validation patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedsteph.client.clinical.slide_scale import SlideScale
from fedsteph.client.evaluation.decision import InnerScore, Selection, pooled, pooled_interval
from fedsteph.client.evaluation.inner_folds import InnerFold, n_inner_folds
from fedsteph.client.models.model_file import percentiles_of
from fedsteph.client.panel.held_out import SourceGroups, spread
from fedsteph.client.panel.held_out_gain import held_out_gain
from fedsteph.client.panel.weights import learned
from fedsteph.client.steph.fit import collapsed, fit_steph
from fedsteph.client.training.batch import predict_hazards
from fedsteph.client.training.cox import log_odds
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ModelFileError
from fedsteph.common.host import checked_file
from fedsteph.common.host.progress import Progress, part, silent
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.resampling import resampled
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.task_vector import TaskVector

_DRAWS = 200  # resamples of the validation patients behind a standard error


def gammas(recipe: Recipe) -> tuple[float, ...]:
    """The values of gamma to try."""
    gamma = recipe.steph.gamma
    return recipe.steph.gamma_grid if gamma == "cv" else (float(gamma),)


def trainings(recipe: Recipe) -> int:
    """Number of models that :func:`select` trains."""
    return n_inner_folds(recipe) * len(gammas(recipe))


def select(
    inner: Sequence[InnerFold],
    sources: Sequence[TaskVector],
    recipe: Recipe,
    *,
    device: torch.device,
    folder: Path,
    own_as_source: bool = False,
    groups: SourceGroups | None = None,
    progress: Progress = silent,
) -> Selection:
    """Choose gamma and compare STEPH with the local model, using only a training part.

    Args:
        inner: the inner folds of that part.
        groups: the received models that predict with the target's; None: no panel is judged.
        own_as_source: use the target's own vector, from each inner fold's local model, as an additional source.
        folder: keeps a score per training, so that a killed selection resumes.
        progress: in trainings.

    Raises:
        FedstephError: as :func:`fedsteph.client.steph.fit.fit_steph`.
    """
    scores = {f"{j}/local": _score(fold.local, fold, device) for j, fold in enumerate(inner)}
    n = len(inner) * len(gammas(recipe))
    for i in range(n):
        j, gamma = _trial(recipe, i)
        here = part(progress, i, n)
        scores[f"{j}/{gamma}"] = tried(
            inner, i, sources, recipe, device=device, folder=folder, own_as_source=own_as_source, progress=here
        )
    found = _choose(scores, recipe)
    return found if groups is None or not inner else _with_panel(found, scores, inner, groups, recipe)


def tried(
    inner: Sequence[InnerFold],
    i: int,
    sources: Sequence[TaskVector],
    recipe: Recipe,
    *,
    device: torch.device,
    folder: Path,
    own_as_source: bool = False,
    progress: Progress = silent,
) -> InnerScore:
    """Make the score of training number ``i`` of :func:`select`, or take it from the folder; arguments as there."""
    j, gamma = _trial(recipe, i)
    path, fold = folder / f"{j}_{gamma}.json", inner[j]
    if (kept := checked_file.kept(path, _read)) is not None:
        return kept
    local = fold.local.cpu()
    own = [TaskVector.between(local, pinned_model(recipe.model))] if own_as_source else []
    run = TrainingRun(device, progress=progress)
    steph = fit_steph(fold.train, local, [*own, *sources], recipe, gamma=gamma, label=fold.label, run=run)
    score = replace(_score(steph, fold, device), collapsed=collapsed(steph, fold.train, device))
    checked_file.write_json(path, asdict(score))
    return score


def _trial(recipe: Recipe, i: int) -> tuple[int, float]:
    """Inner fold and gamma of a training."""
    j, nth = divmod(i, len(gammas(recipe)))
    return j, gammas(recipe)[nth]


def _with_panel(
    found: Selection,
    scores: Mapping[str, InnerScore],
    inner: Sequence[InnerFold],
    groups: SourceGroups,
    recipe: Recipe,
) -> Selection:
    """The same selection with the panel's weights, and its scores on patients that had no say in them."""
    kinds = [(scores[f"{j}/{found.gamma}"], scores[f"{j}/local"]) for j in range(len(inner))]
    told = list(zip(kinds, inner, strict=True))
    parts = [groups.part(steph.scores, local.scores, fold.validation) for (steph, local), fold in told]
    before = [groups.part(steph.trained, local.trained, fold.train) for (steph, local), fold in told]
    expected = np.array([recipe.panel.expected(group) for group in groups.groups])
    doubt, repeats = recipe.panel.doubt, recipe.steph.inner_repeats
    gain = held_out_gain(parts, expected, doubt, groups.groups.index("local"), repeats)
    weights = dict(zip(groups.groups, learned(parts, expected, doubt).tolist(), strict=True))
    risks = [part.scores @ a for part, a in zip(parts, gain.weights, strict=True)]
    each = [pairs(risk, part.times, part.events) for risk, part in zip(risks, parts, strict=True)]
    judged = [InnerScore(one.concordant, one.n_comparable, _error(one)) for one in each]
    levels = [part.scores @ a for part, a in zip(before, gain.weights, strict=True)]
    scaled = [(risk - level.mean()) / spread(level) for risk, level in zip(risks, levels, strict=True)]
    return replace(
        found,
        risks={**found.risks, "panel": tuple(np.concatenate(scaled).tolist())},
        panel=pooled(judged),
        panel_interval=pooled_interval(judged, repeats),
        gain=gain.nats,
        gain_error=gain.error,
        weights=weights,
    )


def without_sources(inner: Sequence[InnerFold], recipe: Recipe, device: torch.device) -> Selection:
    """The result if no source is left to merge: only the local models are scored."""
    local = [_score(fold.local, fold, device) for fold in inner]
    found = _selection(min(gammas(recipe)), "no source was left to merge", local, [], recipe.steph.inner_repeats)
    return replace(found, risks={"local": _joined(local)})


def _score(model: nn.Module, fold: InnerFold, device: torch.device) -> InnerScore:
    held_out = fold.validation
    trained, hazards = (torch.from_numpy(predict_hazards(model, part, device)) for part in (fold.train, held_out))
    risk, before = risk_score(hazards).numpy(), risk_score(trained).numpy()
    found = pairs(risk, held_out.times, held_out.events)
    standardised = SlideScale.of(percentiles_of(before)).standardised(risk)
    level = log_odds(trained).numpy()
    scores = [(log_odds(part).numpy() - level.mean()) / spread(level) for part in (trained, hazards)]
    columns = [tuple(values.tolist()) for values in (standardised, *scores)]
    return InnerScore(found.concordant, found.n_comparable, _error(found), False, *columns)


def _joined(scores: Sequence[InnerScore]) -> tuple[float, ...]:
    return tuple(chain.from_iterable(score.risks for score in scores))


def _error(found: Pairs) -> float | None:
    """Standard error of a C-index over bootstrap resamples of its patients; None where none of them has a pair."""
    if not found.n_comparable:
        return None
    c = resampled([found], resamples=_DRAWS, rng=np.random.default_rng(0))[0]
    return float(np.nanstd(c)) if np.isfinite(c).any() else None


def _choose(scores: dict[str, InnerScore], recipe: Recipe) -> Selection:
    """Choose the gamma with the highest pooled C, and score STEPH and the local model.

    In each inner fold, STEPH is scored with the gamma that the *other* folds choose. With the best gamma of all
    folds, the maximum of several scores would be compared with the single score of the local model.
    """
    names = ["local", *map(str, gammas(recipe))]
    numbers = sorted({int(key.partition("/")[0]) for key in scores})
    folds = [{name: scores[f"{j}/{name}"] for name in names} for j in numbers]
    gamma, reason = best_gamma(folds, recipe)
    held_out = [fold[str(best_gamma(folds[:j] + folds[j + 1 :], recipe)[0])] for j, fold in enumerate(folds)]
    tried = {name: _summed([fold[name] for fold in folds]) for name in names[1:]}
    found = _selection(gamma, reason, [fold["local"] for fold in folds], held_out, recipe.steph.inner_repeats)
    by_method = {"local": "local", "steph": str(gamma)}
    joined = {method: _joined([fold[name] for fold in folds]) for method, name in by_method.items()}
    return replace(found, tried=tried, risks=joined)


def _summed(scores: Sequence[InnerScore]) -> InnerScore:
    pairs_of = sum(score.concordant for score in scores), sum(score.comparable for score in scores)
    return InnerScore(*pairs_of, None, any(score.collapsed for score in scores))


def _selection(gamma: float, reason: str, local: list[InnerScore], steph: list[InnerScore], repeats: int) -> Selection:
    n = sum(score.comparable for score in local) // repeats
    intervals = pooled_interval(local, repeats), pooled_interval(steph, repeats)
    return Selection(gamma, reason, pooled(local), pooled(steph), n, *intervals)


def best_gamma(folds: Sequence[Mapping[str, InnerScore]], recipe: Recipe) -> tuple[float, str]:
    """The gamma with the highest C pooled over ``folds``, and why; the smallest in a tie.

    A fold has a score for each gamma, as text.
    A gamma that collapsed in an inner fold is left out, unless all did: it would collapse again.
    """
    grid = sorted(gammas(recipe))
    if recipe.steph.gamma != "cv":
        return grid[0], "fixed in the configuration"
    sound = [gamma for gamma in grid if not any(fold[str(gamma)].collapsed for fold in folds)] or grid
    c_by_gamma = {gamma: pooled([fold[str(gamma)] for fold in folds]) for gamma in sound}
    best = max(sound, key=lambda gamma: (c_by_gamma[gamma] or 0.0, -gamma))
    if c_by_gamma[best] is None:
        return best, "the smallest of the grid, because inner cross-validation has no comparable pair"
    left_out = f", {len(grid) - len(sound)} left out as collapsed there" if len(sound) < len(grid) else ""
    return best, f"best of {len(grid)} in {recipe.steph.inner_folds}-fold inner cross-validation{left_out}"


def _read(path: Path) -> InnerScore:
    try:
        return build(InnerScore, checked_file.read_json(path), path)
    except ConfigError as error:
        raise ModelFileError("is damaged", where=path) from error
