"""Figures of how the sources were used: w and lam of every source, over patients and over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsteph.client.steph.dynamics import QUANTILES, collapsed_in
from fedsteph.client.target.evidence import Evidence
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import WIDTH, canvas, line_look

_Q05, _Q25, _MEDIAN, _Q75, _Q95 = range(len(QUANTILES))


def end_picture(name: str, found: Evidence, who: str) -> Picture:
    """Draw the distribution of w and lam per source over all test patients, for the trained models."""
    title = "Weight and mixing of every source, over test patients"
    found = found.once
    columns = [(w[~np.isnan(w)], lam[~np.isnan(lam)]) for w, lam in zip(found.w.T, found.lam.T, strict=True)]
    if not any(len(w) for w, _ in columns):
        return Picture(name, title, instead="No source was merged, so there is no weight to show.")
    with canvas(title, who, WIDTH, 0.95 + 0.3 * len(columns)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        sides = ((left, "weight w (0: not kept)"), (right, "mixing lam (1: target alone)"))
        for which, (axes, label) in enumerate(sides):
            _draw_boxes(axes, [column[which] for column in columns])
            axes.set_xlabel(label)
        right.set_xlim(min(-0.02, right.get_xlim()[0]), max(1.02, right.get_xlim()[1]))
        left.set_xlim(left=min(0.0, left.get_xlim()[0]))
        left.set_yticks(range(1, len(columns) + 1), labels=list(found.sources))
        left.invert_yaxis()
        left.set_title("box: quartiles; whiskers: 5 to 95%", fontsize=7.5)
    rows = [
        [source, str(len(w)), f"{np.mean(w != 0):.3f}" if len(w) else "-", *_spread(w), *_spread(lam)]
        for source, (w, lam) in zip(found.sources, columns, strict=True)
    ]
    header = [
        "source",
        "n",
        "kept by, share",
        "w 5%",
        "w median",
        "w 95%",
        "lam 5%",
        "lam median",
        "lam 95%",
    ]
    numbers = Table(header, rows, "quantiles over patients", folded=True)
    note = (
        "Every patient by the model of the fold that tests it; lam of the patients who kept the source. Where a source "
        "was refused in some folds, the patients of the others (n)."
    )
    median = {source: float(np.median(w)) for source, (w, _) in zip(found.sources, columns, strict=True) if len(w)}
    most = max(median, key=lambda source: median[source])
    finding = f"Most used: {most}, with a median weight of {median[most]:.2f}."
    return Picture(name, title, figure, note=note, numbers=numbers, finding=finding)


def _draw_boxes(axes: Any, columns: Sequence[np.ndarray]) -> None:
    """Draw one horizontal box per source, without outliers."""
    boxes = [_box(values) for values in columns]
    drawn = axes.bxp(boxes, orientation="horizontal", widths=0.6, showfliers=False, patch_artist=True)
    for box in drawn["boxes"]:
        box.set(facecolor="0.8", linewidth=0.8)
    for line in (*drawn["medians"], *drawn["whiskers"], *drawn["caps"]):
        line.set(color="0.15", linewidth=0.9)


def dynamics_picture(name: str, found: dict[str, Any] | None, who: str) -> Picture:
    """Draw w and lam of every source by epoch: medians over training patients, with bands from 25 to 75%."""
    title = "Weight and mixing by epoch"
    if found is None or not found["epochs"]:
        instead = "What w and lam did while this model was trained was not recorded: an earlier version trained it."
        return Picture(name, title, instead=instead)
    epochs = [one["epoch"] for one in found["epochs"]]
    with canvas(title, who, WIDTH, 3.4 + 0.11 * len(found["sources"])) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for i, source in enumerate(found["sources"]):
            for axes, key in ((upper, "w"), (lower, "lam")):
                values = _by_epoch(found["epochs"], key, i)
                label = source if axes is upper else None
                axes.plot(epochs, values[:, _MEDIAN], label=label, marker=".", **line_look(i))
                axes.fill_between(epochs, values[:, _Q25], values[:, _Q75], color=line_look(i)["color"], alpha=0.12)
        upper.set(ylabel="weight w")
        low, high = lower.get_ylim()
        lower.set(ylabel="mixing lam", xlabel="epoch of STEPH's training", ylim=(min(-0.02, low), max(1.02, high)))
        lower.locator_params(axis="x", integer=True)
        upper.set_title("lines: median over patients; bands: quartiles")
        if (epoch := collapsed_in(found["epochs"])) is not None:
            for axes in (upper, lower):
                axes.axvline(epoch, color="0.15", linewidth=1.2, linestyle="--")
            upper.text(epoch, 0.98, " collapsed", va="top", transform=upper.get_xaxis_transform())
        figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    note = (
        "Training patients, in the training's own passes: dropout is active in them. w counts 0 where it is not kept."
    )
    return Picture(name, title, figure, note=note, numbers=dynamics_table(found))


def _box(values: np.ndarray) -> dict[str, Any]:
    """Statistics for a box plot: quartiles, and whiskers at 5 and 95%; NaN without values."""
    ends = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
    return dict(zip(("whislo", "q1", "med", "q3", "whishi"), ends.tolist(), strict=True))


def dynamics_table(found: dict[str, Any]) -> Table:
    """w and lam of every epoch and source as numbers."""
    rows = [
        [str(one["epoch"]), source, f"{one['kept'][i]:.3f}", *_numbers(one["w"][i]), *_numbers(one["lam"][i])]
        for one in found["epochs"]
        for i, source in enumerate(found["sources"])
    ]
    quantiles = [f"{100 * q:g}%" for q in QUANTILES]
    header = [
        "epoch",
        "source",
        "kept by, share",
        *(f"w {q}" for q in quantiles),
        *(f"lam {q}" for q in quantiles),
    ]
    return Table(header, rows, "w and lam by epoch", folded=True)


def _by_epoch(epochs: Sequence[dict[str, Any]], key: str, source: int) -> np.ndarray:
    nothing = [np.nan] * len(QUANTILES)
    return np.array([nothing if one[key][source] is None else one[key][source] for one in epochs], dtype=float)


def _spread(values: np.ndarray) -> list[str]:
    return ["-"] * 3 if not len(values) else [f"{q:.3f}" for q in np.quantile(values, (0.05, 0.5, 0.95))]


def _numbers(values: Sequence[float] | None) -> list[str]:
    return ["-"] * len(QUANTILES) if values is None else [f"{value:.4f}" for value in values]
