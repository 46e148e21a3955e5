"""The product-limit estimate of a survival curve (Kaplan and Meier, J. Am. Stat. Assoc. 1958)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """A step function of time that starts at 1; behind the last time it stays where it is.

    Args:
        times: ``(n_times,)`` ascending and distinct.
        values: ``(n_times,)`` float32, the probability from each of them on.
    """

    times: Tensor
    values: Tensor

    def at(self, t: Tensor) -> Tensor:
        """The probability of living longer than ``t``: any shape to the same."""
        steps = torch.searchsorted(self.times, t, side="right")
        return torch.cat([torch.ones(1), self.values])[steps]


def survival_curve(t: Tensor, events: Tensor) -> Curve:
    """The curve of the time to an event.

    Args:
        t: ``(n,)`` float32, in any unit.
        events: ``(n,)`` bool; the others are censored at their time, behind the events of that time.
    """
    times, deaths, at_risk = _counts(t, events)
    return _product_limit(times, deaths, at_risk)


def censoring_curve(t: Tensor, events: Tensor) -> Curve:
    """The curve of the time to censoring, of which an event at the same time is no longer at risk."""
    times, deaths, at_risk = _counts(t, events)
    return _product_limit(times, _counts(t, ~events)[1], at_risk - deaths)


def _counts(t: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct times, and at each how many are counted and how many of all are at risk."""
    times, place, here = torch.unique(t, return_inverse=True, return_counts=True)
    return times, torch.bincount(place[counted], minlength=len(times)), len(t) - torch.cumsum(here, dim=0) + here


def _product_limit(times: Tensor, leaving: Tensor, at_risk: Tensor) -> Curve:
    # Nobody may be left at risk where nobody leaves either.
    share = torch.where(leaving > 0, leaving / at_risk, 0.0)
    return Curve(times, torch.cumprod(1.0 - share, dim=0))
