"""Estimates survival and censoring curves by the product-limit method (Kaplan and Meier, J. Am. Stat. Assoc. 1958)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """A step function of time that starts at 1 and is constant after the last time."""

    times: Tensor  # (n_times,) ascending and distinct
    values: Tensor  # (n_times,) of the times' type, the probability from each time on

    def at(self, t: Tensor) -> Tensor:
        """The probability that the time is longer than ``t``, in the shape of ``t``."""
        steps = torch.searchsorted(self.times, t, side="right")
        return torch.cat([torch.ones(1, dtype=self.values.dtype), self.values])[steps]


def survival_curve(t: Tensor, events: Tensor) -> Curve:
    """The Kaplan-Meier curve of the time to an event; ``t (n,)`` float32 or float64 in any unit, ``events (n,)`` bool.

    The others are censored at their time, after the events of that time.
    """
    return _product_limit(*_counts(t, events))


def censoring_curve(t: Tensor, events: Tensor) -> Curve:
    """The Kaplan-Meier curve of the time to censoring; patients with an event at the same time are not at risk."""
    times, deaths, at_risk = _counts(t, events)
    return _product_limit(times, _counts(t, ~events)[1], at_risk - deaths)


def _counts(t: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct times; at each, how many are in ``counted`` and how many of all are at risk."""
    times, place, here = torch.unique(t, return_inverse=True, return_counts=True)
    return times, torch.bincount(place[counted], minlength=len(times)), len(t) - torch.cumsum(here, dim=0) + here


def _product_limit(times: Tensor, leaving: Tensor, at_risk: Tensor) -> Curve:
    # Avoid 0 / 0: there may be times at which nobody leaves and nobody is at risk.
    share = torch.where(leaving > 0, leaving.to(times.dtype) / at_risk, 0.0)
    return Curve(times, torch.cumprod(1.0 - share, dim=0))
