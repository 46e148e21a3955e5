"""Plots the mean coefficient of every source's vector in every target's merges as a matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import GRADED, WIDTH, canvas

Coefficients = Mapping[str, Mapping[str, float]]  # target -> source -> mean coefficient of the source's vector


def matrix(coefficients: Coefficients) -> tuple[list[str], list[str], np.ndarray]:
    """Sources, targets and coefficients ``(n_sources, n_targets)``; NaN if a site is not a source of a target."""
    targets = list(coefficients)
    sources = sorted({source for found in coefficients.values() for source in found})
    nothing = float("nan")
    values = [[coefficients[target].get(source, nothing) for target in targets] for source in sources]
    return sources, targets, np.array(values, dtype=float).reshape(len(sources), len(targets))


def matrix_picture(name: str, coefficients: Coefficients, who: str) -> Picture:
    """Draw the matrix as a heat map with its numbers."""
    title = "Mean coefficient of every source's vector in every target's merge"
    sources, targets, values = matrix(coefficients)
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
                colour = "white" if np.asarray(image.norm(values[i, j])) < 0.5 else "black"
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=size, color=colour)
        figure.colorbar(image, ax=axes, label="mean w (1 - lam)")
    rows = [
        [source, *("-" if not np.isfinite(value) else f"{value:.4f}" for value in row)]
        for source, row in zip(sources, values, strict=True)
    ]
    note = (
        "Mean w (1 - lam) over test patients; blank: no source of that target, or refused in all its folds. The"
        " target's own vector is not shown."
    )
    numbers = Table(["source", *targets], rows, "coefficients", folded=True)
    place = np.unravel_index(np.nanargmax(values), values.shape)
    finding = f"The largest mean coefficient has the vector of {sources[place[0]]} at {targets[place[1]]}: {top:.2f}."
    return Picture(name, title, figure, note=note, numbers=numbers, finding=finding)
