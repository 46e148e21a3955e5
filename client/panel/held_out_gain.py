"""Compares the panel with the local model on held-out patients, by Cox's partial likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedsteph.client.panel.held_out import Part
from fedsteph.client.panel.weights import learned


@dataclass(frozen=True)
class Gain:
    """What the panel gains, in nats over all held-out patients, and its standard error."""

    nats: float
    error: float | None  # None where fewer than two events leave it unknown
    weights: tuple[np.ndarray, ...]  # for each part, those of the groups that the other parts ask for


def held_out_gain(parts: Sequence[Part], expected: np.ndarray, doubt: float, local: int, repeats: int = 1) -> Gain:
    """The log partial likelihood of the panel minus that of the local model, pooled over the parts.

    In every part, both get the weights or the scale that the other parts of the same division of the patients ask for,
    so no patient has a say in what is tested on it. Several divisions count as one: they hold the same patients.

    Args:
        parts: of all divisions, one after the other.
        local: the column of the local model's scores.
        repeats: how many divisions there are.
    """
    terms, weights, n = [], [], len(parts) // repeats
    alone = [Part(one.scores[:, [local]], one.times, one.events) for one in parts]
    for j, part in enumerate(parts):
        others = [k for k in range(j // n * n, j // n * n + n) if k != j]
        weights.append(learned([parts[k] for k in others], expected, doubt))
        own = alone[j].scores @ learned([alone[k] for k in others], expected[[local]], 0.0)
        terms.append(event_terms(part.scores @ weights[-1], part) - event_terms(own, part))
    found = np.concatenate(terms)
    known = len(found) > repeats
    error = float(found.std(ddof=1)) * math.sqrt(len(found) / repeats) if known else None
    return Gain(float(found.sum()) / repeats, error, tuple(weights))


def event_terms(score: np.ndarray, part: Part) -> np.ndarray:
    """Each event's term of Cox's log partial likelihood, in nats (Breslow's rule for ties)."""
    order = np.lexsort((part.events, -part.times))  # of equal times, events last: the others are still at risk
    ranked, event = score[order], part.events[order] > 0
    found: np.ndarray = (ranked - np.logaddexp.accumulate(ranked))[event]
    return found
