"""Measures how much each source improves or worsens a merge, on patients that no model or vector was trained on.

No merge here is trained, so a source costs two predictions per inner fold. ``alone`` adds one source's vector to the
target's own share: it shows a harmful source, however many others are harmful too. ``within`` compares the average of
all sources with and without it: it shows its effect among the others. One of twelve sources moves the average by only a
twelfth of its vector: on a few hundred patients ``alone`` can be significant, ``within`` seldom is. Where a source has
a head, heads are merged as the vectors are.

Before losses are compared, every merge's risks are shrunk to the scale at which its own loss is least. A sum of vectors
that agree with each other has the right order and too wide a spread; the target fits that spread afterwards, so it is
no harm. Without this, hospitals of one cancer, whose vectors all agree, were all called harmful.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from operator import add

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.evaluation.inner_folds import InnerFold
from fedsteph.client.screening.partial_likelihood import resampled_losses
from fedsteph.client.screening.verdict import Change
from fedsteph.client.training.batch import predict_hazards
from fedsteph.client.training.cox import log_odds
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.model.resampling import resampled_folds
from fedsteph.common.model.survival import risk_score
from fedsteph.common.vector.task_vector import TaskVector

RESAMPLES = 200
FEWEST_PAIRS = 50  # with fewer comparable pairs in inner validation, no effect can be told from chance
_SHARE = 0.75  # of the target's own vector in every merge, as at STEPH's start under the preset robust
_SCALES = np.append(1.25 ** -np.arange(20.0), 0.0)  # of a merge's risks; at 0 it says nothing
_SEED = 0


@dataclass(frozen=True)
class Contribution:
    """Effect of adding one source: to the target's own share, and to the average of the other sources."""

    alone: Change
    within: Change


def contributions(
    inner: Sequence[InnerFold], vectors: Mapping[str, TaskVector], recipe: Recipe, device: torch.device
) -> dict[str, Contribution]:
    """The effect of every source on C-index and loss over all inner folds; empty if these hold too few pairs."""
    if not vectors or not inner:
        return {}
    m0 = pinned_model(recipe.model)
    judged = [_judge(part, vectors, m0, device) for part in inner]
    if sum(fold[0][0].n_comparable for fold in judged) < FEWEST_PAIRS:
        return {}
    c, loss = _pooled_c(judged), _pooled_loss(judged, inner)
    n, found = len(vectors), {}
    for k, name in enumerate(vectors):  # rows: own share, average of all, each alone, all without each
        alone = _change(c, loss, 2 + k, 0)
        found[name] = Contribution(alone, _change(c, loss, 1, 2 + n + k) if n > 1 else alone)
    return found


Judged = list[tuple[Pairs, np.ndarray]]  # one inner fold; per merge: its pairs and log-risks ``(n,)``


def _judge(part: InnerFold, vectors: Mapping[str, TaskVector], m0: BaseModel, device: torch.device) -> Judged:
    """Apply every merge to one validation part: own share, average of all, each source alone, all without each."""
    rows, n = list(vectors.values()), len(vectors)
    local, heads = part.local.cpu(), any(vector.has_head for vector in rows)
    own = _SHARE * TaskVector.between(local, m0, head=heads)
    total = reduce(add, rows)
    # Still 1 / n: with more of the others the merge would improve, and any useless vector would look harmful.
    without = (own + (1 / n) * (total - row) for row in rows if n > 1)
    found = []
    # Made one at a time: memory does not grow with the number of sources.
    for vector in chain((own, own + (1 / n) * total), (own + row for row in rows), without):
        model = vector.applied_to(m0, _head_under(vector, m0, local))
        hazards = torch.from_numpy(predict_hazards(model, part.validation, device))
        of_pairs = pairs(risk_score(hazards).numpy(), part.validation.times, part.validation.events)
        found.append((of_pairs, log_odds(hazards).numpy()))
    return found


def _head_under(vector: TaskVector, m0: BaseModel, local: BaseModel) -> dict[str, Tensor]:
    """The target's own head, turned to the merge's risk direction where that has one."""
    head = local.head_state()
    if vector.head is None:
        return head
    turned = head["head.weight"] - local.risk_direction() + m0.risk_direction() + vector.head
    return {**head, "head.weight": turned}


def _pooled_c(judged: Sequence[Judged]) -> np.ndarray:
    """C-index of every merge, mean over inner folds: ``(n_merges, 1 + RESAMPLES)``, column 0 not resampled."""
    folds = [[fold[row][0] for fold in judged] for row in range(len(judged[0]))]
    drawn = resampled_folds(folds, resamples=RESAMPLES, seed=_SEED)
    real = np.array([[one.c_index for one in fold if one.n_comparable] for fold in folds], dtype=np.float64)
    mean: np.ndarray = np.nanmean(np.concatenate([real[:, :, None], drawn], axis=2), axis=1)
    return mean


def _pooled_loss(judged: Sequence[Judged], inner: Sequence[InnerFold]) -> np.ndarray:
    """Cox loss per event of every merge at its best scale, in nats: ``(n_merges, 1 + RESAMPLES)``.

    Column 0 is not resampled.
    """
    scales = _best_scales(judged, inner)
    rng = np.random.default_rng(_SEED)
    total, events = np.zeros((len(judged[0]), 1 + RESAMPLES)), np.zeros(1 + RESAMPLES)
    for fold, part in zip(judged, inner, strict=True):
        n = len(part.validation)
        draws = np.vstack([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)])
        etas = scales[:, None] * np.stack([eta for _, eta in fold])
        total += resampled_losses(etas, part.validation.times, part.validation.events, draws)
        events += draws @ part.validation.events
    pooled: np.ndarray = total / np.where(events > 0, events, np.nan)
    return pooled


def _best_scales(judged: Sequence[Judged], inner: Sequence[InnerFold]) -> np.ndarray:
    """Of every merge, the factor of :data:`_SCALES` with the least loss over all inner folds, ``(n_merges,)``."""
    total = np.zeros((len(_SCALES), len(judged[0])))
    for fold, part in zip(judged, inner, strict=True):
        once, patients = np.ones((1, len(part.validation))), part.validation
        etas = np.stack([eta for _, eta in fold])
        for i, scale in enumerate(_SCALES):
            total[i] += resampled_losses(scale * etas, patients.times, patients.events, once)[:, 0]
    best: np.ndarray = _SCALES[total.argmin(axis=0)]
    return best


def _change(c: np.ndarray, loss: np.ndarray, after: int, before: int) -> Change:
    changes = (c[after] - c[before], loss[after] - loss[before])
    errors = [float(np.nanstd(change[1:])) for change in changes]
    return Change(float(changes[0][0]), errors[0], float(changes[1][0]), errors[1])
