"""Several models on the same patients: each metric with its interval, and paired differences to the first model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedsteph.client.evaluation.at_years import Statistic
from fedsteph.common.model.method_scores import Interval
from fedsteph.common.model.resampling import drawn_patients, interval_95


@dataclass(frozen=True)
class Number:
    """A metric, or a difference of two, with its 95% interval; None where it is not defined."""

    value: float | None
    interval_95: Interval | None

    @property
    def cell(self) -> str:
        """As it stands in a table."""
        if self.value is None:
            return "undefined"
        if self.interval_95 is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.interval_95[0]:.3f} to {self.interval_95[1]:.3f})"


@dataclass(frozen=True)
class Scores:
    """One model's metrics by name, and how much they differ from the first model's; empty for the first."""

    metrics: Mapping[str, Number]
    minus_first: Mapping[str, Number]


def side_by_side(
    models: Mapping[str, Mapping[str, Statistic]], n: int, *, resamples: int, seed: int
) -> dict[str, Scores]:
    """Measure all models on ``n`` patients; each resample draws the same patients for every model and metric.

    Args:
        models: name -> metric -> statistic, with the same metrics for each.
    """
    metrics = list(next(iter(models.values())))
    everybody = np.ones((1, n))
    values = {name: {m: float(found[m](everybody)[0]) for m in metrics} for name, found in models.items()}
    drawn = {name: {m: np.empty(resamples) for m in metrics} for name in models}
    for block, patients in drawn_patients(n, resamples, np.random.default_rng(seed)):
        for name, found in models.items():
            for m in metrics:
                drawn[name][m][block] = found[m](patients)
    first, *_ = models
    scores = {}
    for name in models:
        own = {m: _number(values[name][m], drawn[name][m]) for m in metrics}
        gaps = {m: _number(values[name][m] - values[first][m], drawn[name][m] - drawn[first][m]) for m in metrics}
        scores[name] = Scores(own, {} if name == first else gaps)
    return scores


def _number(value: float, drawn: np.ndarray) -> Number:
    return Number(value, interval_95(drawn)) if math.isfinite(value) else Number(None, None)
