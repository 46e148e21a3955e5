"""Plots each method's mean difference in C-index to a reference method, with 95% intervals, largest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import COLOURS, REFERENCE, WIDTH, canvas


def difference_picture(name: str, reference: str, rows: Mapping[str, Mapping[str, Any]], who: str) -> Picture:
    """Draw the differences.

    Args:
        name: name of the figure's files.
        reference: title of the method that all others are compared with.
        rows: method title -> ``difference`` in C-index and its ``interval_95``.
        who: site or targets, folds and seeds, shown in the figure.
    """
    title = f"C-index of every method minus that of {reference}"
    known = {label: row for label, row in rows.items() if row["difference"] is not None}
    if not known:
        return Picture(name, title, instead="No method can be compared with it.")
    ordered = sorted(known.items(), key=lambda item: -float(item[1]["difference"]))
    with canvas(title, who, WIDTH, 0.8 + 0.24 * len(ordered)) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, **REFERENCE)
        for place, (_, row) in enumerate(ordered):
            gap, interval = float(row["difference"]), row["interval_95"]
            bars = None if interval is None else [[max(0.0, gap - interval[0])], [max(0.0, interval[1] - gap)]]
            sure = interval is not None and not interval[0] <= 0 <= interval[1]
            fill = COLOURS[0] if sure else "white"
            axes.errorbar(
                gap, place, xerr=bars, color=COLOURS[0], marker="o", markersize=5, markerfacecolor=fill, elinewidth=1
            )
        axes.set_yticks(range(len(ordered)), labels=[label for label, _ in ordered])
        axes.set(ylim=(len(ordered) - 0.4, -0.6), xlabel="difference in Harrell's C (above 0: better)")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
    rows_ = [
        [
            label,
            f"{row['difference']:+.4f}",
            *([f"{end:+.4f}" for end in row["interval_95"]] if row["interval_95"] else "--"),
        ]
        for label, row in ordered
    ]
    note = "Bars: 95% intervals, paired over patients; filled: the interval leaves 0 out."
    numbers = Table(["method", "difference", "low", "high"], rows_, "differences", folded=True)
    return Picture(name, title, figure, note=note, numbers=numbers)
