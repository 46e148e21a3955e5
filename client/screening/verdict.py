"""The verdict on one source's vector, and the figures it is based on."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A source's effect on a merge in inner validation: changes of C-index and loss, with standard errors.

    Args:
        c_index: change; above 0 is better.
        c_index_error: bootstrap standard error of this change.
        loss: change of Cox's negative partial log-likelihood per event, in nats; below 0 is better.
        loss_error: bootstrap standard error of this change.
    """

    c_index: float
    c_index_error: float
    loss: float
    loss_error: float

    @property
    def harm(self) -> float:
        """By how many standard errors the merge gets worse, in the figure where this is larger."""
        return max(_ratio(-self.c_index, self.c_index_error), _ratio(self.loss, self.loss_error))


@dataclass(frozen=True)
class Figures:
    """The figures that a verdict is based on.

    Args:
        norm: L2 norm of the vector.
        norm_ratio: ``norm`` over the median norm of the other sources' and the target's own vectors.
        own_cosine: the largest cosine with one of the target's own vectors.
        twin: the source with the largest cosine with this vector; None for a single source.
        twin_cosine: that cosine.
        alone: effect of adding only this vector to the target's own; None if there are too few patients to judge it.
        within: effect of this source on the average of all: with it, compared with leaving it out.
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
    """The verdict on one source in one fold.

    Args:
        suspicious: whether a figure exceeds its bound.
        weight: factor on the vector before the merge; 0: left out.
        reason: one sentence.
    """

    suspicious: bool
    weight: float
    reason: str
    figures: Figures


def _ratio(worse: float, error: float) -> float:
    if math.isnan(worse):
        return math.inf  # an undefined change cannot pass as harmless
    return worse / error if error > 0 else (math.inf if worse > 0 else 0.0)
