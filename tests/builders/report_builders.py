"""Evidence, notes and enhanced models to draw from, and what stands in a figure once it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from client_builders import m0_of, make_recipe, make_vectors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.target.evidence import Evidence
from fedsteph.common.model.seeded import seeded
from fedsteph.common.report.page import Picture

WHO = "site-a: n = 23 test patients, 11 events, 2 folds, seed 7"


def make_evidence(
    times: Sequence[float],
    events: Sequence[int],
    hazards: Mapping[str, np.ndarray] | None = None,
    *,
    ids: Sequence[str] | None = None,
    fold: Sequence[int] | None = None,
    cut_off: Mapping[str, Sequence[float]] | None = None,
    sources: Sequence[str] = (),
    w: np.ndarray | None = None,
    lam: np.ndarray | None = None,
) -> Evidence:
    n = len(times)
    nothing = np.full((n, len(sources)), np.nan)
    return Evidence(
        ids=np.array([f"P{i:03d}" for i in range(n)] if ids is None else ids, dtype=np.str_),
        fold=np.zeros(n, dtype=np.int64) if fold is None else np.array(fold),
        times=np.array(times, dtype=np.float64),
        events=np.array(events, dtype=np.int64),
        hazards=dict(hazards or {}),
        cut_off={name: np.array(values) for name, values in (cut_off or {}).items()},
        sources=tuple(sources),
        w=nothing if w is None else w,
        lam=nothing if lam is None else lam,
    )


def make_steph(*settings: str, n_sources: int = 3, scale: float = 0.3, seed: int = 0) -> Steph:
    """An untrained enhanced model, in evaluation mode; random vectors, and weights that differ between patients."""
    recipe = make_recipe(*settings)
    target, *sources = make_vectors(recipe, n_sources + 1, scale).values()
    with seeded(seed):
        model = Steph(Mixture.of(m0_of(recipe), target, sources), recipe.steph, dropout=0.25)
        with torch.no_grad():
            for name in ("head_agg", "head_mix"):  # all sources are alive, and patients differ by what they keep
                if hasattr(model.hypernetwork, name):
                    last = getattr(model.hypernetwork, name)[3]
                    last.weight.mul_(2.0)
                    last.bias.fill_(0.2)
    return model.eval()


def epoch_notes(epoch: int, w: Sequence[Any], lam: Sequence[Any], largest_w: float = 0.5, **more: float) -> dict:
    """One epoch as ``fedsteph.client.steph.dynamics`` keeps it."""
    kept = [0.5] * len(w)
    told = {"c_target": 0.6, "c_sources": 0.2, **more}
    return {"epoch": epoch, "w": list(w), "lam": list(lam), "kept": kept, "largest_w": largest_w, **told}


def squeezed(text: str) -> str:
    """Without white space, as a text was broken into lines somewhere."""
    return "".join(text.split())


def drawn(picture: Picture) -> Figure:
    """A picture's figure; its title is in it."""
    assert picture.instead == "" and picture.figure is not None
    assert squeezed(picture.title) in squeezed(heading(picture.figure))
    return picture.figure


def heading(figure: Figure) -> str:
    return figure._suptitle.get_text()


def says(picture: Picture) -> str:
    """The sentence that stands instead of a figure."""
    assert picture.figure is None and picture.numbers is None
    return picture.instead


def lines_by_label(axes: Axes) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


def band_at(band: Any) -> dict[float, set[float]]:
    """The heights that an area's outline has, by place; the area may be in pieces."""
    found: dict[float, set[float]] = {}
    for piece in band.get_paths():
        for x, y in piece.vertices:
            found.setdefault(float(x), set()).add(float(y))
    return found
