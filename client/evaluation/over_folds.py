"""Selects for the final model, from the inner cross-validations that the folds made; no test part has a say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean

from fedsteph.client.evaluation.decision import Selection
from fedsteph.client.evaluation.select import best_gamma
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.method_scores import Interval


def over_folds(selections: Sequence[Selection], recipe: Recipe) -> Selection:
    """One selection from those of all folds, to be decided on by the rule of a fold (:func:`.choose_deployed`).

    The C-indices are pooled over the folds' inner validation patients. Most patients are validated in several folds, so
    more folds are not more evidence: the number of pairs is the mean of a fold, and an interval is as wide as a fold's.
    Folds without a merge say nothing of STEPH, and are left out where others had one.
    """
    used = [one for one in selections if one.tried] or list(selections)
    gamma, reason = used[0].gamma, used[0].gamma_reason
    if used[0].tried:
        gamma, reason = best_gamma([one.tried for one in used], recipe)
    judged = [one for one in used if one.n_comparable]
    weights = [one.n_comparable for one in judged]
    return Selection(
        gamma,
        f"{reason}, over {len(used)} folds" if recipe.steph.gamma == "cv" and len(used) > 1 else reason,
        _mean([one.local for one in judged], weights),
        _mean([one.steph for one in judged], weights),
        sum(weights) // len(used),
        _mean_interval([one.local_interval for one in judged], weights),
        _mean_interval([one.steph_interval for one in judged], weights),
        panel=_mean([one.panel for one in judged], weights),
        panel_interval=_mean_interval([one.panel_interval for one in judged], weights),
        gain=_mean([one.gain for one in judged], weights),
        gain_error=_mean([one.gain_error for one in judged], weights),
        weights=_mean_weights([one.weights for one in used]),
    )


def _mean_weights(weights: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every group of a panel, over the folds that have it: the screening of another may have refused all of it."""
    groups = dict.fromkeys(chain.from_iterable(weights))
    return {group: fmean(one[group] for one in weights if group in one) for group in groups}


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return sum(value * weight for value, weight in zip(known, weights, strict=True)) / sum(weights)


def _mean_interval(intervals: Sequence[Interval | None], weights: Sequence[int]) -> Interval | None:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None
    low, high = (_mean([interval[i] for interval in known], weights) for i in (0, 1))
    return None if low is None or high is None else (low, high)
