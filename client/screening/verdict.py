"""The verdict on one source's vector, and the figures it is based on."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A source's effect on a merge in inner validation: changes of C-index and loss, with bootstrap standard errors."""

    c_index: float  # above 0 is better
    c_index_error: float
    loss: float  # Cox's negative partial log-likelihood per event, in nats; below 0 is better
    loss_error: float

    @property
    def harm(self) -> float:
        """By how many standard errors the merge gets worse, in the figure where this is larger."""
        return max(_ratio(-self.c_index, self.c_index_error), _ratio(self.loss, self.loss_error))


@dataclass(frozen=True)
class Figures:
    """The figures that a verdict is based on; no :class:`Change` if there are too few patients to judge it."""

    norm: float  # L2, of the encoder's part
    norm_ratio: float  # norm over the median norm of the other sources' and the target's own vectors
    own_cosine: float  # the largest with one of the target's own vectors
    twin: str | None = None  # the source with the largest cosine with this vector; None for a single source
    twin_cosine: float | None = None
    alone: Change | None = None  # from adding only this vector to the target's own
    within: Change | None = None  # the average of all with this source, compared with leaving it out
    head_ratio: float | None = None  # as norm_ratio, of the heads alone; None without a head


@dataclass(frozen=True)
class Verdict:
    """The verdict on one source in one fold."""

    suspicious: bool  # whether a figure exceeds its bound
    weight: float  # factor on the vector before the merge; 0: left out
    reason: str  # one sentence
    figures: Figures


def _ratio(worse: float, error: float) -> float:
    if math.isnan(worse):
        return math.inf  # an undefined change cannot pass as harmless
    return worse / error if error > 0 else (math.inf if worse > 0 else 0.0)
