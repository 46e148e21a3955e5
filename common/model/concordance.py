"""Harrell's concordance index (Harrell et al., JAMA 1982)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

TIED_RISK = 1e-8
_EVENTS_PER_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Pairs:
    """The comparable pairs of one test set, in memory linear in the number of patients.

    A pair (i, j) is comparable if i is known to have the event before j, and concordant if i also has the higher risk;
    risks that tie within 1e-8 count 1/2. At equal times an event counts as earlier than a censoring, and two events
    are not comparable.

    Patients are sorted by time, events before censorings. Each event is then compared with all patients from one index
    on. Sorted by risk, all patients below some rank have a lower risk. Only these indices and ranks are stored.
    """

    order: np.ndarray  # (n,) indices of the patients, sorted by time
    rank: np.ndarray  # (n,) rank by risk of each patient, sorted by time
    events: np.ndarray  # (n_events,) positions of the events in ``order``
    later: np.ndarray  # (n_events,) position in ``order`` of the first patient who is compared with the event
    below: np.ndarray  # (n_events,) number of patients with a lower risk
    up_to: np.ndarray  # (n_events,) number of patients with a lower or tied risk
    weight: np.ndarray | None = None  # (n_events,) of each event's pairs in the C-index, as in Uno's C; None: all equal

    @property
    def comparable(self) -> np.ndarray:
        """Number of comparable pairs per event, ``(n_events,)``."""
        return len(self.order) - self.later

    @cached_property
    def doubled(self) -> np.ndarray:
        """Twice the number of concordant pairs per event (2 per concordant, 1 per tied pair), ``(n_events,)`` int64."""
        counts = [scores.sum(axis=1, dtype=np.int64) for _, _, scores in self.blocks()]
        return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)

    @property
    def n_comparable(self) -> int:
        """Number of comparable pairs."""
        return int(self.comparable.sum())

    @property
    def concordant(self) -> float:
        """Number of concordant pairs; tied risks count 1/2."""
        return int(self.doubled.sum()) / 2

    @property
    def c_index(self) -> float | None:
        """Harrell's C, or with weights Uno's; None if no pair is comparable, or none has a weight."""
        weight = 1 if self.weight is None else self.weight
        n = float((weight * self.comparable).sum())
        return float((weight * self.doubled).sum()) / 2 / n if n else None

    def weighted(self, weight: np.ndarray) -> Pairs:
        """The same pairs with a weight ``(n,)`` for each patient's event, in the order of the risks."""
        return replace(self, weight=weight[self.order][self.events])

    def blocks(self) -> Iterator[tuple[slice, int, np.ndarray]]:
        """All comparable pairs, in blocks of events.

        Yields:
            the slice of ``events``; ``place``, the first position in ``order`` that is compared with any of them; and
            ``(n_block, n - place)`` uint8 over these events and the patients from ``place`` on: 2 if the pair is
            concordant, 1 if the risks tie, else 0.
        """
        for first in range(0, len(self.events), _EVENTS_PER_BLOCK):
            block = slice(first, first + _EVENTS_PER_BLOCK)
            place = int(self.later[first])  # the smallest of the block, because ``later`` ascends
            rank = self.rank[place:]
            scores = (rank < self.below[block, None]).view(np.uint8)
            scores += rank < self.up_to[block, None]
            scores *= np.arange(place, len(self.order)) >= self.later[block, None]
            yield block, place, scores


def pairs(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> Pairs:
    """Compare patients by risk (higher = worse), follow-up in days and event (1; 0 = censored), each ``(n,)``.

    Raises ValueError if a risk is not finite, so the patients cannot be sorted.
    """
    risk, t, e = (np.asarray(values, dtype=np.float64) for values in (risk, t, e))
    if not np.isfinite(risk).all():
        raise ValueError("every risk must be finite")
    order, by_risk = np.lexsort((e != 1, t)), np.argsort(risk)
    rank = np.empty(len(risk), dtype=np.int32)
    rank[by_risk] = np.arange(len(risk))
    events = np.flatnonzero(e[order] == 1)
    times, of_events = t[order][events], risk[order][events]
    last = np.searchsorted(times, times, side="right") - 1  # index of the last event at the same time
    return Pairs(
        order=order,
        rank=rank[order],
        events=events,
        later=events[last] + 1,
        below=_exceeded(of_events, risk[by_risk], TIED_RISK),
        up_to=_exceeded(of_events, risk[by_risk], np.nextafter(-TIED_RISK, -np.inf)),
    )


def _exceeded(values: np.ndarray, ascending: np.ndarray, margin: float) -> np.ndarray:
    """How many of ``ascending`` each value exceeds by more than ``margin``, ``(n_values,)`` int32.

    Bisects on the rounded difference itself: a search for ``value - margin`` would round differently.
    """
    low, high = np.zeros(len(values), dtype=np.int32), np.full(len(values), len(ascending), dtype=np.int32)
    while (low < high).any():
        middle = (low + high) // 2
        # After a search has ended, the middle may be past the end.
        exceeds = values - ascending[np.minimum(middle, len(ascending) - 1)] > margin
        open_ = low < high
        low, high = np.where(open_ & exceeds, middle + 1, low), np.where(open_ & ~exceeds, middle, high)
    return low


def c_index(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> float | None:
    """Harrell's C of one test set, or None if it has no comparable pair; arguments and errors as :func:`pairs`."""
    return pairs(risk, t, e).c_index
