"""What a target keeps of its test patients for its page: one file beside its result, which stays at the site."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsteph.client.target.fold import FoldResult
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host import atomic

FILE = "evidence.npz"
_PER_PATIENT = ("ids", "fold", "times", "events", "w", "lam")
AGAIN = "Run the same command again: it is written anew, and nothing is trained twice"


@dataclass(frozen=True)
class Evidence:
    """Every test patient of every fold, in order of folds; a patient of several test parts is there several times.

    Args:
        ids: ``(n,)`` patient IDs.
        fold: ``(n,)`` whose test part it is.
        times: ``(n,)`` days.
        events: ``(n,)``, 1 = event.
        hazards: method -> ``(n, n_bins)`` of the model of that fold.
        cut_off: method -> ``(n_folds,)``, the median risk of a fold's training patients.
        sources: whose vectors came.
        w: ``(n, n_sources)``, 0 where a source was not kept for a patient, NaN where it was not merged in the fold.
        lam: ``(n, n_sources)``, NaN where a source was not kept.
    """

    ids: np.ndarray
    fold: np.ndarray
    times: np.ndarray
    events: np.ndarray
    hazards: Mapping[str, np.ndarray]
    cut_off: Mapping[str, np.ndarray]
    sources: tuple[str, ...]
    w: np.ndarray
    lam: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def once(self) -> Evidence:
        """Every patient once: in the first fold that tests them."""
        _, first = np.unique(self.ids, return_index=True)
        kept = np.sort(first)
        patients: dict[str, Any] = {name: getattr(self, name)[kept] for name in _PER_PATIENT}
        hazards = {name: values[kept] for name, values in self.hazards.items()}
        return replace(self, **patients, hazards=hazards)

    def risk(self, method: str) -> np.ndarray:
        """``-sum_j S_j`` of each patient, ``(n,)``."""
        total: np.ndarray = -np.cumprod(1.0 - self.hazards[method], axis=1).sum(axis=1)
        return total

    def event_probability(self, method: str, year: int) -> np.ndarray:
        """Predicted probability of an event within so many years of 365 days, ``(n,)``."""
        found: np.ndarray = 1.0 - np.prod(1.0 - self.hazards[method][:, :year], axis=1)
        return found

    def high_risk(self, method: str) -> np.ndarray:
        """Whether a patient's risk is above its fold's cut-off, ``(n,)``."""
        above: np.ndarray = self.risk(method) > self.cut_off[method][self.fold]
        return above

    @property
    def coefficients(self) -> dict[str, float]:
        """Mean over all patients of each source's ``w (1 - lam)``; of those that were merged in any fold."""
        merged = ~np.isnan(self.w)
        c = np.where(self.w != 0, np.nan_to_num(self.w) * (1.0 - np.nan_to_num(self.lam)), 0.0)
        means = zip(self.sources, c.mean(axis=0), merged.any(axis=0), strict=True) if len(self) else ()
        return {source: float(mean) for source, mean, is_merged in means if is_merged}


def evidence_of(folds: Sequence[FoldResult], sources: Sequence[str]) -> Evidence:
    """What all folds of a target found."""
    w, lam = [], []
    for fold in folds:
        n = len(fold.ids)
        w.append(np.full((n, len(sources)), np.nan))
        lam.append(np.full((n, len(sources)), np.nan))
        if fold.usage is not None:
            columns = [list(sources).index(name) for name in fold.sources]
            w[-1][:, columns], lam[-1][:, columns] = fold.usage.w, fold.usage.lam
    methods = folds[0].hazards
    return Evidence(
        ids=np.array([key for fold in folds for key in fold.ids], dtype=np.str_),
        fold=np.repeat(np.arange(len(folds)), [len(fold.ids) for fold in folds]),
        times=np.concatenate([fold.times for fold in folds]),
        events=np.concatenate([fold.events for fold in folds]),
        hazards={name: np.concatenate([fold.hazards[name] for fold in folds]) for name in methods},
        cut_off={name: np.array([fold.cut_off[name] for fold in folds]) for name in methods},
        sources=tuple(sources),
        w=np.concatenate(w),
        lam=np.concatenate(lam),
    )


def write_evidence(path: Path, found: Evidence) -> None:
    """Keep it, whole or not at all."""
    arrays = {name: getattr(found, name) for name in _PER_PATIENT}
    arrays |= {f"hazards.{name}": values for name, values in found.hazards.items()}
    arrays |= {f"cut_off.{name}": values for name, values in found.cut_off.items()}
    atomic.write_arrays(path, sources=np.array(found.sources, dtype=np.str_), **arrays)


def read_evidence(path: Path) -> Evidence:
    """Read it back.

    Raises:
        ModelFileError: there is none, as in the work of an earlier version, or it is damaged.
    """
    if not path.exists():
        raise ModelFileError("is missing: an earlier version did this work", where=path, remedy=AGAIN)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        by_method: dict[str, Any] = {
            key: {name.partition(".")[2]: values for name, values in arrays.items() if name.startswith(f"{key}.")}
            for key in ("hazards", "cut_off")
        }
        plain = {name: arrays[name] for name in _PER_PATIENT}
        lengths = {len(values) for values in (*plain.values(), *by_method["hazards"].values())}
        if len(lengths) != 1 or not by_method["hazards"] or by_method["hazards"].keys() != by_method["cut_off"].keys():
            raise ValueError("arrays of unlike length, or methods without a cut-off")
        return Evidence(**plain, **by_method, sources=tuple(str(name) for name in arrays["sources"]))
    except Exception as error:
        raise ModelFileError("is damaged", where=path, remedy=AGAIN) from error
