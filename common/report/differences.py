"""Plots each method's mean difference in C-index to a reference method, with 95% intervals, largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import COLOURS, REFERENCE, WIDTH, bar_of, canvas

Gap = tuple[float | None, Sequence[float] | None]


def difference_picture(name: str, reference: str, rows: Mapping[str, Gap], who: str) -> Picture:
    """Draw each method's difference in C-index to a reference, by title; ``who`` is shown in the figure."""
    title = f"C-index of every method minus that of {reference}"
    known = [(label, gap, interval) for label, (gap, interval) in rows.items() if gap is not None]
    if not known:
        return Picture(name, title, instead="No method can be compared with it.")
    ordered = sorted(known, key=lambda row: -row[1])
    with canvas(title, who, WIDTH, 0.8 + 0.24 * len(ordered)) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, **REFERENCE)
        for place, (_, gap, interval) in enumerate(ordered):
            fill = "white" if interval is None or interval[0] <= 0 <= interval[1] else COLOURS[0]
            look: dict[str, Any] = {"color": COLOURS[0], "marker": "o", "markersize": 5, "markerfacecolor": fill}
            axes.errorbar(gap, place, xerr=bar_of(gap, interval), elinewidth=1, **look)
        axes.set_yticks(range(len(ordered)), labels=[label for label, _, _ in ordered])
        axes.set(ylim=(len(ordered) - 0.4, -0.6), xlabel="difference in Harrell's C (above 0: better)")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
    cells = [[label, *_cells(gap, interval)] for label, gap, interval in ordered]
    note = "Bars: 95% intervals, paired over patients; filled: the interval leaves 0 out."
    numbers = Table(["method", "difference", "low", "high"], cells, "differences", folded=True)
    return Picture(name, title, figure, note=note, numbers=numbers)


def _cells(gap: float, interval: Sequence[float] | None) -> list[str]:
    return [f"{gap:+.4f}", *([f"{end:+.4f}" for end in interval] if interval else "--")]
