"""Who helped whom: how much every source weighs in the merges of every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from common.report.page import Picture, Table
from common.report.style import GRADED, WIDTH, canvas

# Target -> fold -> source -> its use: share of patients who kept it, mean w and lam there.
Uses = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]


def matrix(uses: Uses) -> tuple[list[str], list[str], np.ndarray]:
    """Sources, targets and ``(n_sources, n_targets)`` mean coefficients ``kept w (1 - lam)`` over folds.

    NaN where a site is no source of a target, or was refused in every fold.
    """
    targets = list(uses)
    sources = sorted({source for folds in uses.values() for fold in folds for source in fold})
    values = np.full((len(sources), len(targets)), np.nan)
    for j, target in enumerate(targets):
        for i, source in enumerate(sources):
            met = [fold[source] for fold in uses[target] if source in fold]
            if met:
                # In a fold where it was refused it weighs nothing.
                total = sum(use["kept"] * use["w"] * (1.0 - use["lam"]) for use in met)
                values[i, j] = total / len(uses[target])
    return sources, targets, values


def matrix_picture(name: str, uses: Uses, who: str) -> Picture:
    """The matrix in colours, with its numbers."""
    title = "Mean coefficient of every source's vector in every target's merge"
    sources, targets, values = matrix(uses)
    if not np.isfinite(values).any():
        return Picture(name, title, instead="No source was merged anywhere.")
    with canvas(title, who, WIDTH, 1.1 + 0.3 * len(sources)) as figure:
        axes = figure.subplots()
        top = max(float(np.nanmax(values)), 1e-9)
        image = axes.imshow(values, cmap=GRADED, vmin=min(0.0, float(np.nanmin(values))), vmax=top, aspect="auto")
        axes.set_xticks(range(len(targets)), labels=targets, rotation=45, ha="right")
        axes.set_yticks(range(len(sources)), labels=sources)
        axes.set(xlabel="target", ylabel="source")
        size = 7 if len(targets) <= 8 else 5
        for i, j in np.ndindex(values.shape):
            if np.isfinite(values[i, j]):
                colour = "white" if values[i, j] < 0.55 * top else "black"
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=size, color=colour)
        figure.colorbar(image, ax=axes, label="mean w (1 - lam)")
    rows = [
        [source, *("-" if not np.isfinite(value) else f"{value:.4f}" for value in row)]
        for source, row in zip(sources, values, strict=True)
    ]
    note = "Mean over test patients and folds; blank: no source of that target. The target's own vector is not shown."
    return Picture(
        name, title, figure, note=note, numbers=Table(["source", *targets], rows, "coefficients", folded=True)
    )
