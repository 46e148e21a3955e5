"""Calibration: observed (Kaplan-Meier) against predicted probability of an event within 3 years or 1 year."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsteph.client.target.evidence import Evidence
from fedsteph.common.model.survival import DAYS_PER_BIN
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import REFERENCE, WIDTH, canvas, legend_above

_YEARS = (3, 1)  # the first one for which enough patients are followed
N_GROUPS = 4
_LEAST = 8  # patients in all, and patients followed up to that year
_FOLLOWED = 3  # patients of a group followed up to that year


class Point:
    """One group of patients with similar predictions: mean prediction, and Kaplan-Meier estimate with 95% band."""

    @property
    def is_known(self) -> bool:
        """Whether enough are followed up to the year, or all had an event; if not, the curve is only extrapolated."""
        return self.followed >= min(_FOLLOWED, self.n) or self.n_events == self.n

    @property
    def cells(self) -> list[str]:
        """Its row in the table of the figure's numbers."""
        return [str(self.n), f"{self.predicted:.3f}", f"{self.observed:.3f}", f"{self.low:.3f}-{self.high:.3f}"]

    def __init__(self, predicted: np.ndarray, times: np.ndarray, events: np.ndarray, year: int) -> None:
        from lifelines import KaplanMeierFitter  # noqa: PLC0415 (a second to import)

        self.n = len(times)
        self.predicted = float(predicted.mean())
        at = year * DAYS_PER_BIN
        self.followed = int((times >= at).sum())
        self.n_events = int((events[times <= at] > 0).sum())
        fitted = KaplanMeierFitter().fit(times, events, timeline=[0.0, *np.unique(times[times <= at]), at])
        band = np.nan_to_num(fitted.confidence_interval_.to_numpy()[-1], nan=0.0)
        self.observed = 1.0 - float(fitted.survival_function_.iloc[-1, 0])
        self.low, self.high = 1.0 - float(band[1]), 1.0 - float(band[0])
        # Rule of three if nobody or everybody had an event; n counts patients followed up to the year or with an event.
        known = self.followed + self.n_events
        if self.observed == 0.0:
            self.low, self.high = 0.0, min(1.0, 3.0 / max(known, 1))
        elif self.observed == 1.0:
            self.low, self.high = max(0.0, 1.0 - 3.0 / max(known, 1)), 1.0


def horizon(times: np.ndarray) -> int | None:
    """The year to judge at: 3, or 1 if fewer than 8 of ``times`` (days) reach year 3; None if fewer reach year 1."""
    return next((year for year in _YEARS if (times >= year * DAYS_PER_BIN).sum() >= _LEAST), None)


def points(predicted: np.ndarray, times: np.ndarray, events: np.ndarray, year: int) -> list[Point]:
    """Four groups of patients of equal size by predicted probability ``(n,)``, lowest first."""
    groups = np.array_split(np.argsort(predicted, kind="stable"), N_GROUPS)
    return [Point(predicted[group], times[group], events[group], year) for group in groups]


_NOTE = (
    "Test patients of all folds, each by the model of its fold, in four groups of equal size by predicted probability."
    " A group of which fewer than three are followed so long is left out. Bars: 95% intervals of the Kaplan-Meier "
    "estimate (where nobody of a group had an event, or everybody: the rule of three)."
)


def draw(name: str, found: Evidence, methods: Mapping[str, str], who: str) -> Picture:
    """Draw the points of ``methods`` (method -> title) at :func:`horizon`; a calibrated model lies on the diagonal."""
    found = found.once
    year = horizon(found.times)
    if year is None:
        return _instead(name, "Calibration", "long enough a follow-up")
    predicted = {label: found.event_probability(method, year) for method, label in methods.items()}
    return draw_at(name, predicted, found.times, found.events, year, who, _NOTE)


def draw_at(
    name: str,
    predicted: Mapping[str, np.ndarray],
    times: np.ndarray,
    events: np.ndarray,
    year: int,
    who: str,
    note: str,
) -> Picture:
    """Draw the predicted probabilities ``(n,)`` of an event within ``year`` years, by the title of the model."""
    title = f"Calibration at {year} year{'s' if year > 1 else ''}"
    if not events.any():
        return _instead(name, title, "an event")
    # Numbered from 1, without the groups whose curves are only extrapolated.
    known = {
        label: {k: point for k, point in enumerate(points(values, times, events, year), 1) if point.is_known}
        for label, values in predicted.items()
    }
    with canvas(title, who, WIDTH, WIDTH * 0.85) as figure:
        axes = figure.subplots()
        end = _plot(axes, known)
        axes.plot([0, end], [0, end], label="calibrated", **REFERENCE)
        axes.set(xlim=(0, end), ylim=(0, end), xlabel=f"predicted probability of an event within {year} y")
        axes.set(ylabel=f"observed (Kaplan-Meier) within {year} y")
        legend_above(axes, ncols=3)
    rows = [[label, str(k), *point.cells] for label, groups in known.items() for k, point in groups.items()]
    header = ["method", "group", "n", "predicted", "observed", "95% interval"]
    numbers = Table(header, rows, "calibration", folded=True)
    return Picture(name, title, figure, note=note, numbers=numbers, finding=_finding(known))


def _finding(known: Mapping[str, Mapping[int, Point]]) -> str:
    """The largest distance between predicted and observed, by the title of the model."""
    far = {
        label: max((abs(point.predicted - point.observed) for point in groups.values()), default=0.0)
        for label, groups in known.items()
    }
    told = ", ".join(f"{label} {gap:.2f}" for label, gap in far.items())
    return f"Largest gap between predicted and observed: {told}." if any(known.values()) else ""


def _instead(name: str, title: str, lacks: str) -> Picture:
    return Picture(name, title, instead=f"Too few test patients have {lacks} to judge calibration.")


def _plot(axes: Any, known: Mapping[str, Mapping[int, Point]]) -> float:
    """Plot every method's groups with their intervals; returns the end of both axes."""
    largest = 0.0
    for i, (label, numbered) in enumerate(known.items()):
        groups = numbered.values()
        x, y = [p.predicted for p in groups], [p.observed for p in groups]
        bars = [[max(0.0, p.observed - p.low) for p in groups], [max(0.0, p.high - p.observed) for p in groups]]
        look = {"linestyle": "none", "capsize": 2, "elinewidth": 0.8, "markersize": 5}
        axes.errorbar(x, y, yerr=bars, label=label, **look, **method_look(label, i).point)
        largest = max([largest, *x, *(p.high for p in groups)])
    return min(1.0, largest * 1.05) or 1.0
