"""Test patients' outcomes, hazards, w and lam behind a target's page: one file that stays at the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fedsteph.client.target.fold_result import FoldResult
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host import checked_file

FILE = "evidence.npz"
_PER_PATIENT = ("ids", "fold", "times", "events", "w", "lam")


@dataclass(frozen=True)
class Evidence:
    """All test patients of all folds, in order of folds; a patient in several test parts occurs several times."""

    ids: np.ndarray  # (n,) patient IDs
    fold: np.ndarray  # (n,), the fold whose test part the patient is in
    times: np.ndarray  # (n,) follow-up in days
    events: np.ndarray  # (n,), 1 = event
    hazards: Mapping[str, np.ndarray]  # method -> (n, n_bins), by the model of that fold
    cut_off: Mapping[str, np.ndarray]  # method -> (n_folds,), the median risk of each fold's training patients
    sources: tuple[str, ...]  # the sites whose vectors were received
    w: np.ndarray  # (n, n_sources); 0 if a source was not kept for a patient, NaN if it was not merged in that fold
    lam: np.ndarray  # (n, n_sources); NaN if a source was not kept

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def once(self) -> Evidence:
        """Each patient once, from the first fold that tests them."""
        _, first = np.unique(self.ids, return_index=True)
        kept = np.sort(first)
        patients: dict[str, Any] = {name: getattr(self, name)[kept] for name in _PER_PATIENT}
        hazards = {name: values[kept] for name, values in self.hazards.items()}
        return replace(self, **patients, hazards=hazards)

    def risk(self, method: str) -> np.ndarray:
        """Risk ``-sum_j S_j`` of each patient, ``(n,)``; S_j is survival beyond year j."""
        total: np.ndarray = -np.cumprod(1.0 - self.hazards[method], axis=1).sum(axis=1)
        return total

    def event_probability(self, method: str, year: int) -> np.ndarray:
        """Predicted probability of an event within ``year`` years of 365 days, ``(n,)``."""
        found: np.ndarray = 1.0 - np.prod(1.0 - self.hazards[method][:, :year], axis=1)
        return found

    def high_risk(self, method: str) -> np.ndarray:
        """Whether each patient's risk is above its fold's cut-off, ``(n,)`` bool."""
        above: np.ndarray = self.risk(method) > self.cut_off[method][self.fold]
        return above

    @property
    def coefficients(self) -> dict[str, float]:
        """Source -> mean of ``w (1 - lam)`` over all patients, for sources that were merged in at least one fold."""
        merged = ~np.isnan(self.w)
        c = np.where(self.w != 0, np.nan_to_num(self.w) * (1.0 - np.nan_to_num(self.lam)), 0.0)
        means = zip(self.sources, c.mean(axis=0), merged.any(axis=0), strict=True) if len(self) else ()
        return {source: float(mean) for source, mean, is_merged in means if is_merged}


def evidence_of(folds: Sequence[FoldResult], sources: Sequence[str]) -> Evidence:
    """Collect the test patients of all folds of a target."""
    w, lam = np.concatenate([_w_and_lam(fold, sources) for fold in folds], axis=1)
    methods = folds[0].hazards
    return Evidence(
        ids=np.array([*chain.from_iterable(fold.ids for fold in folds)], dtype=np.str_),
        fold=np.repeat(np.arange(len(folds)), [len(fold.ids) for fold in folds]),
        times=np.concatenate([fold.times for fold in folds]),
        events=np.concatenate([fold.events for fold in folds]),
        hazards={name: np.concatenate([fold.hazards[name] for fold in folds]) for name in methods},
        cut_off={name: np.array([fold.cut_off[name] for fold in folds]) for name in methods},
        sources=tuple(sources),
        w=w,
        lam=lam,
    )


def _w_and_lam(fold: FoldResult, sources: Sequence[str]) -> np.ndarray:
    """``(2, n, n_sources)``: w and lam of a fold's test patients, NaN for a source that was not merged."""
    found = np.full((2, len(fold.ids), len(sources)), np.nan)
    if fold.usage is not None:
        columns = [list(sources).index(name) for name in fold.sources]
        found[:, :, columns] = fold.usage.w, fold.usage.lam
    return found


def write_evidence(path: Path, found: Evidence) -> None:
    """Write the file atomically."""
    arrays = {name: getattr(found, name) for name in _PER_PATIENT}
    arrays |= {f"hazards.{name}": values for name, values in found.hazards.items()}
    arrays |= {f"cut_off.{name}": values for name, values in found.cut_off.items()}
    checked_file.write_arrays(path, sources=np.array(found.sources, dtype=np.str_), **arrays)


def read_evidence(path: Path) -> Evidence:
    """Read a file of :func:`write_evidence`; ModelFileError if it is damaged or, of an earlier version, missing."""
    if not path.exists():
        raise ModelFileError("is missing: an earlier version did this work", where=path, remedy=checked_file.AGAIN)
    arrays = checked_file.read_arrays(path)
    try:
        return _evidence_in(arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelFileError("is damaged", where=path, remedy=checked_file.AGAIN) from error


def _evidence_in(arrays: Mapping[str, Any]) -> Evidence:
    by_method: dict[str, Any] = {
        key: {name.partition(".")[2]: values for name, values in arrays.items() if name.startswith(f"{key}.")}
        for key in ("hazards", "cut_off")
    }
    plain = {name: arrays[name] for name in _PER_PATIENT}
    lengths = {len(values) for values in (*plain.values(), *by_method["hazards"].values())}
    if len(lengths) != 1 or not by_method["hazards"] or by_method["hazards"].keys() != by_method["cut_off"].keys():
        raise ValueError("arrays of unlike length, or methods without a cut-off")
    return Evidence(**plain, **by_method, sources=tuple(map(str, arrays["sources"])))
