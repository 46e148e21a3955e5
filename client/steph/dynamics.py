"""Records w and lam over the training patients in every epoch of STEPH's training.

The values come from the training passes themselves, with dropout, so that recording needs no extra pass over the bags.
A killed training resumes from its checkpoint: repeated epochs give the same values again, and at most the epoch in
which it was killed is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.steph.model import Routing
from fedsteph.client.steph.usage import Usage, usage_of
from fedsteph.common.host import checked_file

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLLAPSED_BELOW = 1e-3  # limit of the largest w, averaged over patients


class Dynamics:
    """Recorder of one training; its file grows by one epoch at a time."""

    def __init__(self, path: Path, sources: Sequence[str]) -> None:
        self._path = path
        self._sources = tuple(sources)
        self._epochs: dict[int, dict[str, Any]] = {}
        self._met: dict[str, tuple[Tensor, ...]] = {}
        found = checked_file.kept(path, checked_file.read_json) or {}
        if found.get("sources") == list(sources):
            self._epochs = {int(one["epoch"]): one for one in found["epochs"]}

    def note(self, ids: Sequence[str], routing: Routing) -> None:
        """Record how some patients were merged; the last pass in an epoch counts."""
        rows = (routing.w.detach(), routing.lam.detach(), routing.kept)
        for i, key in enumerate(ids):
            self._met[key] = tuple(tensor[i] for tensor in rows)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Summarise and save an epoch; return its main values by name."""
        w, lam, kept = (torch.stack(rows) for rows in zip(*self._met.values(), strict=True))
        self._met.clear()
        found = self._epochs[epoch] = {"epoch": epoch, **_summary(usage_of(Routing(w, lam, kept)))}
        whole = [self._epochs[k] for k in sorted(self._epochs)]
        checked_file.write_json(self._path, {"sources": list(self._sources), "patients": len(w), "epochs": whole})
        median = QUANTILES.index(0.5)
        by_source = {
            f"{key}/{name}": values[median]
            for key in ("w", "lam")
            for name, values in zip(self._sources, found[key], strict=True)
            if values is not None
        }
        return by_source | {key: found[key] for key in ("c_target", "c_sources", "largest_w")}


def read_dynamics(path: Path) -> dict[str, Any] | None:
    """Read the recorded epochs of a training; None if there is no file, ModelFileError if it is damaged."""
    return checked_file.read_json(path, remedy="Delete it: the page then goes without") if path.exists() else None


def collapsed_in(epochs: Sequence[dict[str, Any]]) -> int | None:
    """The epoch from which all kept weights stay near 0 until the end; None if they do not end near 0."""
    last = [*takewhile(lambda one: one["largest_w"] < COLLAPSED_BELOW, reversed(epochs))]
    return int(last[-1]["epoch"]) if last else None


def _summary(found: Usage) -> dict[str, Any]:
    """Means and quantiles over patients; lam only over those who kept the source, None if nobody did."""
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
