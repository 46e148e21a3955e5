"""What was found about one source's vector: the figures, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """What a source does to a merge on inner validation: the change of two figures, and each one's standard error.

    Args:
        c_index: above 0 is better.
        c_index_error: bootstrap standard error of that difference.
        loss: Cox's partial likelihood per event, in nats; below 0 is better.
        loss_error: likewise.
    """

    c_index: float
    c_index_error: float
    loss: float
    loss_error: float

    @property
    def harm(self) -> float:
        """How many standard errors worse, by whichever figure is worse."""
        return max(_ratio(-self.c_index, self.c_index_error), _ratio(self.loss, self.loss_error))


@dataclass(frozen=True)
class Figures:
    """What a verdict rests on.

    Args:
        norm: L2 norm of the vector.
        norm_ratio: to the median norm of the other sources' and the target's own vectors.
        own_cosine: the largest cosine with a vector of the target's own.
        twin: the source whose vector is the most alike; None for a single source.
        twin_cosine: theirs.
        alone: what adding this vector alone does to the target's own; None where patients are too few to tell.
        within: what this source does to the average of all: leave-one-source-out, its sign turned round.
    """

    norm: float
    norm_ratio: float
    own_cosine: float
    twin: str | None = None
    twin_cosine: float | None = None
    alone: Change | None = None
    within: Change | None = None


@dataclass(frozen=True)
class Verdict:
    """One source in one fold.

    Args:
        suspicious: whether a bound was broken.
        weight: what the vector was multiplied by before the merge; 0 is left out.
        reason: one sentence.
    """

    suspicious: bool
    weight: float
    reason: str
    figures: Figures


def _ratio(worse: float, error: float) -> float:
    if math.isnan(worse):
        return math.inf  # what cannot be told is not harmless
    return worse / error if error > 0 else (math.inf if worse > 0 else 0.0)
