"""Subspace alignment (SAR) of mixtures: how much of ``tau_t`` remains in ``lam tau_t + (1 - lam) tau_k``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedsteph.client.methods.alignment import ENERGY, aligned_matrices, alignment
from fedsteph.client.steph.mixture import Mixture
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import WIDTH, canvas, line_look
from fedsteph.common.vector.task_vector import cut

_NOTE = (
    "The share of the target's task vector that lies in the space of the mixture's leading directions; matrices of one "
    "row have no such space and are left out."
)
RANK_RULE = f"Rank rule: the fewest leading left-singular vectors that hold {100 * ENERGY:g}% of the mixture's energy"
_MOST_LAYERS = 8
LAM = tuple(round(0.1 * i, 1) for i in range(11))


@dataclass(frozen=True)
class SarCurves:
    """SAR of every layer's mixtures, by source and lam."""

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the layers' weight matrices
    sources: tuple[str, ...]
    lam: tuple[float, ...]
    sar: np.ndarray  # (n_layers, n_sources, n_lam), 0 to 1
    rank: np.ndarray  # (n_layers, n_sources, n_lam) int, of the subspaces


def sar_curves(
    mixture: Mixture,
    sources: Sequence[str],
    lam: Sequence[float] = LAM,
    progress: Progress = silent,
) -> SarCurves:
    """Mix the target's vector with each source's, layer by layer, and compute the SAR; progress is in mixtures.

    Of a kind of base model with many weight matrices, the eight largest are taken.
    """
    target, *others = (cut(row.cpu(), mixture.architecture) for row in mixture.rows)
    matrices = aligned_matrices(target)
    largest = sorted(matrices, key=lambda name: -target[name].numel())[:_MOST_LAYERS]
    layers = tuple(name for name in matrices if name in largest)
    shape = (len(layers), len(others), len(lam))
    sar, rank = np.empty(shape), np.empty(shape, dtype=int)
    for done, (i, j, k) in enumerate(np.ndindex(shape), 1):
        own, other = target[layers[i]], others[j][layers[i]]
        found = alignment(lam[k] * own + (1.0 - lam[k]) * other, own)
        sar[i, j, k], rank[i, j, k] = found.sar, found.rank
        progress(done, sar.size)
    shapes = tuple(tuple(target[layer].shape) for layer in layers)
    return SarCurves(layers, shapes, tuple(sources), tuple(lam), sar, rank)


def draw(name: str, found: SarCurves, who: str) -> Picture:
    """Draw one panel per layer, with one line per source."""
    title = "Subspace alignment (SAR) of task-vector mixtures"
    n = len(found.layers)
    with canvas(title, who, WIDTH, 1.45 * n + 0.5 + 0.11 * len(found.sources)) as figure:
        panels = np.atleast_1d(figure.subplots(n, 1, sharex=True, sharey=True))
        for panel, layer, shape, values in zip(panels, found.layers, found.shapes, found.sar, strict=True):
            for i, source in enumerate(found.sources):
                panel.plot(found.lam, values[i], label=source if panel is panels[0] else None, **line_look(i))
            panel.set(ylim=(min(0.0, values.min()), 1.03), xlim=(0, 1), ylabel="SAR")
            panel.set_title(f"{layer.removesuffix('.weight')} ({shape[0]} x {shape[1]})")
        panels[-1].set_xlabel("lam (0: the source's vector, 1: the target's own)")
        figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    return Picture(name, title, figure, note=f"{_NOTE} {RANK_RULE}.", numbers=sar_table(found))


def sar_table(found: SarCurves) -> Table:
    """SAR and rank of every layer, source and lam."""
    rows = [
        [layer, source, f"{lam:g}", f"{found.sar[i, j, k]:.6f}", str(found.rank[i, j, k])]
        for i, layer in enumerate(found.layers)
        for j, source in enumerate(found.sources)
        for k, lam in enumerate(found.lam)
    ]
    return Table(["layer", "source", "lam", "SAR", "rank"], rows, "SAR", folded=True)
