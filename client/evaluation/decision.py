"""Decides which model a fold deploys, and whether any is of use, from inner cross-validation alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedsteph.common.model.method_scores import Interval

ENOUGH_PAIRS = 50  # with fewer comparable inner pairs, a better C-index may be chance
_CHANCE = 0.5
_WIDTH = 1.96  # standard errors on either side: 95% of a normal distribution


@dataclass(frozen=True)
class InnerScore:
    """A model on the validation patients of one inner fold."""

    concordant: float  # pairs; tied risks count 1/2
    comparable: int  # pairs
    error: float | None  # standard error of the C-index over bootstrap resamples; None where it is undefined
    collapsed: bool = False  # for STEPH, whether all its weights are near 0
    risks: tuple[float, ...] = ()  # of the validation patients, on SlideScale's scale of this model


@dataclass(frozen=True)
class Selection:
    """Result of inner cross-validation.

    ``local`` and ``steph`` are the C-index over the comparable pairs of all inner folds, None without pairs, and their
    95% intervals. In each fold, ``steph`` uses the gamma that the other folds choose. ``tried`` has STEPH's score over
    all inner folds for every gamma (as text).
    """

    gamma: float
    gamma_reason: str
    local: float | None
    steph: float | None
    n_comparable: int
    local_interval: Interval | None = None
    steph_interval: Interval | None = None
    tried: Mapping[str, InnerScore] = field(default_factory=dict)
    # "local", and "steph" with the chosen gamma: the validation patients' standardised risks, fold after fold
    risks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """The method that a fold deploys, and why."""

    method: Literal["steph", "local"]
    reason: str
    useful: bool | None  # whether the best model's inner C-index is above chance; None where too few pairs tell


def choose_deployed(selection: Selection, is_collapsed: bool) -> Decision:
    """Choose whether to deploy ``steph`` or ``local``; test patients have no influence.

    Where the 95% interval of the chosen model does not lie above 0.5, no model is useful, and the local one stays.
    """
    local, steph, n = selection.local, selection.steph, selection.n_comparable
    if is_collapsed:
        return _unless_chance(selection, "local", "STEPH collapsed: all kept weights are 0")
    if steph is None or local is None or n < ENOUGH_PAIRS:
        what = f"too small to validate: {n} comparable pairs in inner cross-validation, {ENOUGH_PAIRS} needed"
        return Decision("local", what, None)
    scores = f"inner C-index {steph:.3f} against {local:.3f} of the local model, over {n} comparable pairs"
    if steph >= local:
        return _unless_chance(selection, "steph", f"not worse in inner cross-validation: {scores}")
    return _unless_chance(selection, "local", f"STEPH is worse in inner cross-validation: {scores}")


def without_merge(selection: Selection, reason: str) -> Decision:
    """The decision where there is no enhanced model: the local one, and whether it is of use."""
    return _unless_chance(selection, "local", reason)


def _unless_chance(selection: Selection, method: Literal["steph", "local"], reason: str) -> Decision:
    c_index = selection.steph if method == "steph" else selection.local
    interval = selection.steph_interval if method == "steph" else selection.local_interval
    if c_index is None or interval is None or selection.n_comparable < ENOUGH_PAIRS:
        return Decision(method, reason, None)
    if interval[0] > _CHANCE:
        return Decision(method, reason, True)
    title = "STEPH" if method == "steph" else "the local model"
    what = f"no model is useful here: the inner C-index of {title}, {c_index:.3f}, is not above chance"
    return Decision("local", f"{what} (95% interval {interval[0]:.3f} to {interval[1]:.3f}); {reason}", False)


def pooled(scores: Sequence[InnerScore]) -> float | None:
    """C-index over the comparable pairs of several folds, with equal weight for every pair."""
    n = sum(score.comparable for score in scores)
    return sum(score.concordant for score in scores) / n if n else None


def pooled_interval(scores: Sequence[InnerScore]) -> Interval | None:
    """95% interval of :func:`pooled`; the folds have different patients, so their errors are independent."""
    middle, known = pooled(scores), [score for score in scores if score.comparable]
    errors = [score.error for score in known if score.error is not None]
    if middle is None or len(errors) < len(known):
        return None
    n = sum(score.comparable for score in known)
    parts = [score.comparable / n * error for score, error in zip(known, errors, strict=True)]
    half = _WIDTH * math.sqrt(sum(part**2 for part in parts))
    return middle - half, middle + half
