"""Plots the C-index of every method with 95% intervals: a dot per fold and the method's symbol for the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsteph.common.model.method_scores import Interval, MethodScores
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import REFERENCE, WIDTH, bar_of, canvas

_NOTE = (
    "Folds from the top down. Intervals: 2.5 to 97.5 percent of resamples of the test patients within each fold; they "
    "are about these trained models on other patients, not about other trainings. Whether two methods differ is told "
    "by the interval of their difference, not by these two."
)


_NAMED = 3  # methods that a finding names


def c_index_picture(
    name: str, rows: Mapping[str, MethodScores], who: str, methods: Mapping[str, str] | None = None
) -> Picture:
    """Draw the C-index of a target's methods, by title.

    Args:
        who: site, n, folds and seeds, shown in the figure.
        methods: title -> method, where titles are a study's own.
    """
    title = "C-index per fold and method"
    shown = {label: (row, row.mean) for label, row in rows.items() if row.mean is not None}
    if not shown:
        return Picture(name, title, instead="No test fold has a comparable pair of patients, so no C-index exists.")
    n_folds = max(len(row.c_index) for row, _ in shown.values())
    with canvas(title, who, WIDTH, 0.9 + (0.42 + 0.055 * n_folds) * len(shown)) as figure:
        axes = figure.subplots()
        axes.axvline(0.5, **REFERENCE)
        for place, (label, (row, mean)) in enumerate(shown.items()):
            look = method_look((methods or {}).get(label, label), place)
            for fold, value in enumerate(row.c_index):
                if value is not None:
                    height = place - 0.3 + 0.55 * (fold + 0.5) / n_folds
                    _point(axes, value, row.fold_intervals_95[fold], height, color=look.colour, marker=".", alpha=0.6)
            height = place + 0.36
            _point(axes, mean, row.interval_95, height, **look.point, elinewidth=1.6)
            axes.annotate(f"{mean:.3f}", (1.02, height), xycoords=axes.get_yaxis_transform(), va="center", fontsize=7.5)
        axes.set(yticks=range(len(shown)), yticklabels=list(shown), ylim=(len(shown) - 0.35, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("Harrell's C-index (0.5 is chance, 1 is perfect)")
        axes.set_title("dots: folds; symbol and number: mean; bars: 95% intervals", fontsize=7.5)
    best = sorted(((mean, label) for label, (_, mean) in shown.items()), reverse=True)[:_NAMED]
    finding = f"Highest mean C-index: {', '.join(f'{label} {mean:.3f}' for mean, label in best)}."
    return Picture(name, title, figure, note=_NOTE, numbers=c_index_table(rows), finding=finding)


def c_index_table(rows: Mapping[str, MethodScores]) -> Table:
    """The numbers of :func:`c_index_picture` as a table."""
    n_folds = max((len(row.c_index) for row in rows.values()), default=0)
    body = [
        [
            label,
            with_interval(row.mean, row.interval_95),
            *(with_interval(value, row.fold_intervals_95[fold]) for fold, value in enumerate(row.c_index)),
        ]
        for label, row in rows.items()
    ]
    return Table(["method", "mean", *(f"fold {fold}" for fold in range(n_folds))], body, "C-index", folded=True)


def _point(axes: Any, value: float, interval: Interval | None, height: float, **look: Any) -> None:
    look = {"linestyle": "none", "elinewidth": 0.8, "markersize": 5} | look
    axes.errorbar(value, height, xerr=bar_of(value, interval), **look)


def with_interval(value: float | None, interval: Interval | None) -> str:
    """A C-index and its interval, as a cell of a table."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"
