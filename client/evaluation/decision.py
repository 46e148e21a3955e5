"""Decides which model a fold deploys, the panel or the local one, from inner cross-validation alone."""

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
    # the log-risks of the model's training patients and of the validation patients, standardised by the former
    trained: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()


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
    # "local", "steph" with the chosen gamma and "panel": the validation patients' standardised risks, fold after fold
    risks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    panel: float | None = None  # as ``local``, with weights that the other inner folds decide
    panel_interval: Interval | None = None
    gain: float | None = None  # of the panel over the local model in log partial likelihood, in nats
    gain_error: float | None = None  # its standard error; None with fewer than two events
    weights: Mapping[str, float] = field(default_factory=dict)  # of the panel's groups, by all inner folds


@dataclass(frozen=True)
class Decision:
    """The method that a fold deploys, and why."""

    method: Literal["panel", "local"]
    reason: str
    useful: bool | None  # whether the best model's inner C-index is above chance; None where too few pairs tell


def choose_deployed(selection: Selection, is_collapsed: bool, margin: float) -> Decision:
    """Choose whether to deploy the ``panel`` or the ``local`` model; test patients have no influence.

    Args:
        margin: standard errors by which the panel must gain; below 0: by which it may fall short.
    """
    gain, error, n = selection.gain, selection.gain_error, selection.n_comparable
    if is_collapsed:
        return _told_if_useful(selection, "local", "STEPH collapsed: all kept weights are 0")
    if gain is None or error is None:
        return Decision("local", "too small to validate: fewer than 2 events in inner cross-validation", None)
    c_indices = [f"{c:.3f}" for c in (selection.panel, selection.local) if c is not None]
    told = f"{gain:+.1f} nats of log partial likelihood in inner cross-validation, standard error {error:.1f}"
    told += f"; C-index {' against '.join(c_indices)} of the local model, over {n} comparable pairs"
    asked = f"at least {margin:g} standard errors asked for"
    if gain >= margin * error:
        return _told_if_useful(selection, "panel", f"the panel gains {told}; {asked}")
    return _told_if_useful(selection, "local", f"the panel gains only {told}; {asked}")


def without_merge(selection: Selection, reason: str) -> Decision:
    """The decision where there is no enhanced model: the local one, and whether it is of use."""
    return _told_if_useful(selection, "local", reason)


def _told_if_useful(selection: Selection, method: Literal["panel", "local"], reason: str) -> Decision:
    """The decision, and whether its model is useful: the 95% interval of its inner C-index lies above 0.5.

    Where the whole interval lies below, the local model stays.
    """
    c_index = selection.panel if method == "panel" else selection.local
    interval = selection.panel_interval if method == "panel" else selection.local_interval
    if c_index is None or interval is None or selection.n_comparable < ENOUGH_PAIRS:
        return Decision(method, reason, None)
    if interval[0] > _CHANCE:
        return Decision(method, reason, True)
    title = "the panel" if method == "panel" else "the local model"
    what = f"no model is useful here: the inner C-index of {title}, {c_index:.3f}, is not above chance"
    what += f" (95% interval {interval[0]:.3f} to {interval[1]:.3f}); {reason}"
    return Decision("local" if interval[1] <= _CHANCE else method, what, False)


def pooled(scores: Sequence[InnerScore]) -> float | None:
    """C-index over the comparable pairs of several folds, with equal weight for every pair."""
    n = sum(score.comparable for score in scores)
    return sum(score.concordant for score in scores) / n if n else None


def pooled_interval(scores: Sequence[InnerScore], repeats: int = 1) -> Interval | None:
    """95% interval of :func:`pooled`; the folds have different patients, so their errors are independent.

    Those of further ``repeats`` have the same ones again, and so add nothing to what is known.
    """
    middle, known = pooled(scores), [score for score in scores if score.comparable]
    errors = [score.error for score in known if score.error is not None]
    if middle is None or len(errors) < len(known):
        return None
    n = sum(score.comparable for score in known)
    parts = [score.comparable / n * error for score, error in zip(known, errors, strict=True)]
    half = _WIDTH * math.sqrt(repeats * sum(part**2 for part in parts))
    return middle - half, middle + half
