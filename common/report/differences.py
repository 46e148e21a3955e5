"""Forest plot: each method's difference in C-index to a reference, in the mean and per target, largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedsteph.common.report.method_look import Look, method_look
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import REFERENCE, WIDTH, bar_of, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Gap = tuple[float | None, Sequence[float] | None]
Known = tuple[float, Sequence[float] | None]
Rows = Sequence[tuple[str, Known]]
_MOST_ROWS = 60  # with more of them, a method's targets are dots in one row
_NAMED = 3  # methods that a finding names
_NOTE = "Bars: 95% intervals, paired over patients; filled: the interval leaves 0 out."
_TARGETS = {
    True: " Coloured: means over targets; grey circles: the targets.",
    False: " Coloured: means over targets; grey dots: the targets, whose numbers are in tables.",
}


def difference_picture(
    name: str,
    reference: str,
    rows: Mapping[str, Gap],
    who: str,
    targets: Mapping[str, Mapping[str, Gap]] | None = None,
    methods: Mapping[str, str] | None = None,
) -> Picture:
    """Draw each method's difference in C-index to a reference, by title.

    Args:
        rows: differences in the mean, with their intervals.
        who: the data, shown in the figure.
        targets: per method, the difference on each target; None: there is one target.
        methods: title -> method, where titles are a study's own.
    """
    title = f"C-index of every method minus that of {reference}"
    known = _known(rows)
    if not known:
        return Picture(name, title, instead="No method can be compared with it.")
    ordered = sorted(known.items(), key=lambda row: -row[1][0])
    each = {label: _known((targets or {}).get(label, {})) for label in known}
    apart = sum(map(len, each.values())) + len(known) <= _MOST_ROWS
    note = _NOTE + (_TARGETS[apart] if any(each.values()) else "")
    looks = {label: method_look((methods or {}).get(label, label), i) for i, (label, _) in enumerate(ordered)}
    figure = _drawn(title, who, ordered, each, apart, looks)
    finding = _finding(reference, ordered)
    return Picture(name, title, figure, note=note, numbers=_numbers(ordered, each), finding=finding)


def _drawn(
    title: str,
    who: str,
    ordered: Rows,
    each: Mapping[str, Mapping[str, Known]],
    apart: bool,
    looks: Mapping[str, Look],
) -> Figure:
    """The methods from the top down, each with its targets in rows below it, if ``apart``, or as dots."""
    n_targets = sum(map(len, each.values())) if apart else 0
    with canvas(title, who, WIDTH, 0.8 + 0.24 * len(ordered) + 0.14 * n_targets) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, **REFERENCE)
        place, ticks = 0.0, {}
        for label, mean in ordered:
            ticks[place] = label
            _point(axes, place, mean, looks[label].colour, looks[label].marker)
            if not apart:
                gaps = [gap for gap, _ in each[label].values()]
                axes.plot(gaps, [place + 0.3] * len(gaps), ".", color="0.6", markersize=4)
            for target, found in each[label].items() if apart else ():
                place += 0.6
                ticks[place] = target
                _point(axes, place, found, "0.45", "o", 3.0)
            place += 1.0
        axes.set_yticks([*ticks], labels=[*ticks.values()])
        axes.set(ylim=(place - 0.4, -0.6), xlabel="difference in Harrell's C (above 0: better)")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
        for text in axes.get_yticklabels():
            text.set_fontweight("bold" if n_targets and text.get_text() in each else "normal")
    return figure


def _known(rows: Mapping[str, Gap]) -> dict[str, Known]:
    return {label: (gap, interval) for label, (gap, interval) in rows.items() if gap is not None}


def _point(axes: Any, place: float, found: Known, colour: str, marker: str, size: float = 5.0) -> None:
    gap, interval = found
    fill = "white" if interval is None or interval[0] <= 0 <= interval[1] else colour
    look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": size, "markerfacecolor": fill}
    axes.errorbar(gap, place, xerr=bar_of(gap, interval), elinewidth=0.2 * size, **look)


def _numbers(ordered: Rows, each: Mapping[str, Mapping[str, Known]]) -> Table:
    if not any(each.values()):
        cells = [[label, *_cells(found)] for label, found in ordered]
        return Table(["method", "difference", "low", "high"], cells, "differences", folded=True)
    rows = [
        [label, target, *_cells(found)]
        for label, mean in ordered
        for target, found in {"mean": mean, **each[label]}.items()
    ]
    return Table(["method", "target", "difference", "low", "high"], rows, "differences", folded=True)


def _finding(reference: str, ordered: Rows) -> str:
    """How many methods are better and worse than the reference by their intervals, and which ones."""
    better = [label for label, (_, ends) in ordered if ends is not None and ends[0] > 0]
    worse = [label for label, (_, ends) in reversed(ordered) if ends is not None and ends[1] < 0]
    n, rest = len(ordered), len(ordered) - len(better) - len(worse)
    told = [
        f"{len(found)} {'is' if len(found) == 1 else 'are'} shown to be {word} than {reference} ({_named(found)})"
        for word, found in (("better", better), ("worse", worse))
        if found
    ]
    if not told:
        return f"No method is shown to be better or worse than {reference}: every 95% interval includes 0."
    if rest:
        told.append(f"of {rest} no difference is shown")
    return f"Of {n} method{'' if n == 1 else 's'}, {', '.join(told)}."


def _named(labels: Sequence[str]) -> str:
    more = len(labels) - _NAMED
    return ", ".join(labels[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _cells(found: Known) -> list[str]:
    gap, interval = found
    return [f"{gap:+.4f}", *([f"{end:+.4f}" for end in interval] if interval else "--")]
