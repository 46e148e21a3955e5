"""Screens the received vectors on one fold: a verdict per source, and the vectors that are then merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from fedsteph.client.evaluation.inner_folds import InnerFold
from fedsteph.client.screening.contribution import contributions
from fedsteph.client.screening.likeness import copy_bound, figures_of, problem_of
from fedsteph.client.screening.verdict import Change, Figures, Verdict
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.site.policy import Mode
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector

# Flag a source if it worsens the target by more than this many standard errors. There are four tests per source (alone
# and within the average, by C-index and by loss): of 12 sources without any effect, one is flagged in 15 folds.
HARM = 3.0
_DOWN = 0.25  # weight of a suspicious vector of median norm under down-weight


def screen(
    inner: Sequence[InnerFold],
    vectors: Mapping[str, TaskVector],
    own: Sequence[TaskVector],
    recipe: Recipe,
    *,
    mode: Mode,
    device: torch.device,
) -> dict[str, Verdict]:
    """Judge every received vector, using a fold's training patients only.

    Args:
        inner: the inner folds of those patients.
        vectors: source -> vector, already checked by the reader: finite, of the federation's shape, below the norm cap.
        own: the target's vectors as another site would read them, this fold's first.
        mode: what happens to suspicious vectors.
    """
    m0, heads = pinned_model(recipe.model), any(vector.has_head for vector in vectors.values())
    relatives = [as_received(TaskVector.between(part.local.cpu(), m0, head=heads), recipe.sharing) for part in inner]
    figures = figures_of(vectors, own, relatives)
    bound = copy_bound(own[0], relatives)
    problems = {name: problem_of(name, figures, bound) for name in vectors}
    # A vector that is far too long would dominate the average that the others are judged in.
    sound = {name: vector for name, vector in vectors.items() if problems[name] is None}
    for name, found in contributions(inner, sound, recipe, device).items():
        figures[name] = replace(figures[name], alone=found.alone, within=found.within)
        problems[name] = _harm(figures[name])
    median = float(np.median([one.norm for one in figures.values()])) if figures else 0.0
    verdicts = {}
    for name, problem in problems.items():
        weight = 1.0 if problem is None else _weight(figures[name], median, mode)
        verdicts[name] = Verdict(problem is not None, weight, problem or _unproblematic(figures[name]), figures[name])
    return verdicts


def admitted(vectors: Mapping[str, TaskVector], verdicts: Mapping[str, Verdict]) -> dict[str, TaskVector]:
    """The vectors to merge, weighted as the verdicts say."""
    weights = {name: verdict.weight for name, verdict in verdicts.items() if verdict.weight > 0}
    return {name: vectors[name] if weight == 1.0 else weight * vectors[name] for name, weight in weights.items()}


def _harm(figures: Figures) -> str | None:
    for change, where in ((figures.alone, "the target's own model"), (figures.within, "the average of all")):
        if change is not None and change.harm > HARM:
            return (
                f"it harms {where} on inner validation by {change.harm:.1f} standard errors, and {HARM:g} is the "
                f"bound: {_told(change)}"
            )
    return None


def _told(change: Change) -> str:
    return f"C-index {change.c_index:+.3f}, loss {change.loss:+.4f}"


def _unproblematic(figures: Figures) -> str:
    if figures.alone is None:
        return "its norm and direction are as others'; too few patients to judge what it does"
    return f"it does no harm that could be told from chance: {_told(figures.alone)} with it alone"


def _weight(figures: Figures, median: float, mode: Mode) -> float:
    if mode == "report":
        return 1.0
    if mode == "refuse" or figures.norm == 0:
        return 0.0
    return _DOWN * min(1.0, median / figures.norm, 1.0 / max(1.0, figures.head_ratio or 0.0))
