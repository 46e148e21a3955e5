"""What the hypernetworks did while they were trained: w and lam over the training patients, epoch by epoch.

They are those of the training's own passes, dropout included, so that recording costs no second look at the bags. A
training that was killed goes on from its checkpoint; the epochs it does again give the same numbers again, and at most
the one that it was killed in is missing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.steph.model import Routing
from fedsteph.client.steph.usage import Usage, usage_of
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host import atomic

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLLAPSED_BELOW = 1e-3  # the mean over patients of the largest w


class Dynamics:
    """Notes of one training, kept in a file that grows by an epoch at a time."""

    def __init__(self, path: Path, sources: Sequence[str]) -> None:
        self._path = path
        self._sources = tuple(sources)
        self._epochs: dict[int, dict[str, Any]] = {}
        self._met: dict[str, tuple[Tensor, ...]] = {}
        with contextlib.suppress(ModelFileError):  # damaged notes are begun anew: a training needs none
            if (found := read_dynamics(path)) is not None and found["sources"] == list(sources):
                self._epochs = {int(one["epoch"]): one for one in found["epochs"]}

    def note(self, ids: Sequence[str], routing: Routing) -> None:
        """Remember how some patients were merged, whose last pass of an epoch counts."""
        rows = (routing.w.detach(), routing.lam.detach(), routing.kept)
        for i, key in enumerate(ids):
            self._met[key] = tuple(tensor[i] for tensor in rows)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Sum an epoch up and keep it; gives it as single numbers by name."""
        w, lam, kept = (torch.stack(rows) for rows in zip(*self._met.values(), strict=True))
        self._met.clear()
        n_patients = len(w)
        found = {"epoch": epoch, **_summary(usage_of(Routing(w, lam, kept)))}
        self._epochs[epoch] = found
        whole = [self._epochs[k] for k in sorted(self._epochs)]
        atomic.write_json(self._path, {"sources": list(self._sources), "patients": n_patients, "epochs": whole})
        median = QUANTILES.index(0.5)
        by_source = {
            f"{key}/{name}": values[median]
            for key in ("w", "lam")
            for name, values in zip(self._sources, found[key], strict=True)
            if values is not None
        }
        return by_source | {key: found[key] for key in ("c_target", "c_sources", "largest_w")}


def read_dynamics(path: Path) -> dict[str, Any] | None:
    """A training's notes; None where there are none.

    Raises:
        ModelFileError: they are damaged.
    """
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ModelFileError("is damaged", where=path, remedy="Delete it: the page then goes without") from error
    return found


def collapsed_in(epochs: Sequence[dict[str, Any]]) -> int | None:
    """The epoch from which on all kept weights stay near 0; None where they do not end there."""
    first = None
    for one in epochs:
        if one["largest_w"] >= COLLAPSED_BELOW:
            first = None
        elif first is None:
            first = int(one["epoch"])
    return first


def _summary(found: Usage) -> dict[str, Any]:
    """Means and quantiles over patients; lam is of those who kept a source, None where nobody did."""
    lam = [column[~np.isnan(column)] for column in found.lam.T]
    return {
        "w": [_quantiles(column) for column in found.w.T],
        "lam": [_quantiles(column) if len(column) else None for column in lam],
        "kept": [round(float(share), 6) for share in (found.w != 0).mean(axis=0)],
        "c_target": round(float(found.target_coefficient.mean()), 6),
        "c_sources": round(float(found.source_coefficients.sum(axis=1).mean()), 6),
        "largest_w": float(found.w.max(axis=1).mean()),
    }


def _quantiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in np.quantile(values, QUANTILES)]
