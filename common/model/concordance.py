"""Harrell's concordance index (Harrell et al., JAMA 1982)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TIED_RISK = 1e-8
_EVENTS_PER_BLOCK = 256


@dataclass(frozen=True, eq=False)
class Pairs:
    """The comparable pairs of one test set, in memory that grows with its patients and not with its pairs.

    A pair (i, j) is comparable where i is known to fail before j, and concordant where i also has the higher risk;
    risks that tie within 1e-8 count 1/2. An event at a censoring's time is earlier than it; two events at equal
    times are not comparable.

    In the order of time, events before censorings, the patients whom an event is compared with are all from one
    place on; in the order of risk, those with a lower risk are all up to one place. The places are all that is kept.
    """

    order: np.ndarray  # (n,) patients in the order of time
    rank: np.ndarray  # (n,) place in the order of risk of each patient in the order of time
    events: np.ndarray  # (n_events,) places of the events in the order of time
    later: np.ndarray  # (n_events,) place in the order of time from which on the others are later
    below: np.ndarray  # (n_events,) number of patients with a lower risk ..
    up_to: np.ndarray  # (n_events,) .. and with a lower or tied one

    @property
    def comparable(self) -> np.ndarray:
        """Number of comparable pairs of each event, ``(n_events,)``."""
        return len(self.order) - self.later

    @cached_property
    def doubled(self) -> np.ndarray:
        """Twice the number of concordant pairs of each event, risk ties counting 1/2, ``(n_events,)`` int64."""
        counts = [scores.sum(axis=1, dtype=np.int64) for _, _, scores in self.blocks()]
        return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)

    @property
    def n_comparable(self) -> int:
        """Number of comparable pairs."""
        return int(self.comparable.sum())

    @property
    def concordant(self) -> float:
        """Concordant pairs, risk ties counting 1/2."""
        return int(self.doubled.sum()) / 2

    @property
    def c_index(self) -> float | None:
        """Harrell's C, or None when no pair is comparable."""
        n = self.n_comparable
        return self.concordant / n if n else None

    def blocks(self) -> Iterator[tuple[slice, int, np.ndarray]]:
        """All comparable pairs, some events at a time.

        Yields:
            which of ``events``; a place in the order of time before which none of them is compared with anybody; and
            for each of them and each patient from there on 2 where concordant, 1 where tied, else 0: ``(n_block,
            n - place)`` uint8.
        """
        for first in range(0, len(self.events), _EVENTS_PER_BLOCK):
            block = slice(first, first + _EVENTS_PER_BLOCK)
            place = int(self.later[first])  # these ascend
            rank = self.rank[place:]
            scores = (rank < self.below[block, None]).view(np.uint8)
            scores += rank < self.up_to[block, None]
            scores *= np.arange(place, len(self.order)) >= self.later[block, None]
            yield block, place, scores


def pairs(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> Pairs:
    """Compare all patients of a test set.

    Args:
        risk: ``(n,)``, higher = worse.
        t: ``(n,)`` days.
        e: ``(n,)``, 1 = event.

    Raises:
        ValueError: a risk is not finite, so that no order exists.
    """
    risk, t, e = (np.asarray(values, dtype=np.float64) for values in (risk, t, e))
    if not np.isfinite(risk).all():
        raise ValueError("every risk must be finite")
    order, by_risk = np.lexsort((e != 1, t)), np.argsort(risk)
    rank = np.empty(len(risk), dtype=np.int32)
    rank[by_risk] = np.arange(len(risk))
    events = np.flatnonzero(e[order] == 1)
    times, of_events = t[order][events], risk[order][events]
    last = np.searchsorted(times, times, side="right") - 1  # the last event at each event's time
    return Pairs(
        order=order,
        rank=rank[order],
        events=events,
        later=events[last] + 1,
        below=_exceeded(of_events, risk[by_risk], TIED_RISK),
        up_to=_exceeded(of_events, risk[by_risk], np.nextafter(-TIED_RISK, -np.inf)),
    )


def _exceeded(values: np.ndarray, ascending: np.ndarray, margin: float) -> np.ndarray:
    """How many of ``ascending`` each value exceeds by more than a margin, ``(n_values,)`` int32.

    By bisection on the rounded difference itself: a search for ``value - margin`` would round elsewhere.
    """
    low, high = np.zeros(len(values), dtype=np.int32), np.full(len(values), len(ascending), dtype=np.int32)
    while (low < high).any():
        middle = (low + high) // 2
        # Where the search is over, the middle may be behind the last one.
        exceeds = values - ascending[np.minimum(middle, len(ascending) - 1)] > margin
        open_ = low < high
        low, high = np.where(open_ & exceeds, middle + 1, low), np.where(open_ & ~exceeds, middle, high)
    return low


def c_index(risk: np.ndarray, t: np.ndarray, e: np.ndarray) -> float | None:
    """Harrell's C of one test set, or None when it has no comparable pair."""
    return pairs(risk, t, e).c_index
