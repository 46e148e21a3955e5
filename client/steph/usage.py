"""Summarises how a trained STEPH merges a cohort: every patient's weights, and the use of each source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedsteph.client.data.bags import Cohort
from fedsteph.client.steph.model import Routing, Steph
from fedsteph.client.training.batch import batches


@dataclass(frozen=True)
class SourceUse:
    """Use of one source: the share of patients who kept it, and their mean w and lam."""

    kept: float
    w: float
    lam: float


@dataclass(frozen=True)
class Usage:
    """The weights of every patient's merge; as data of single patients, they stay at the site."""

    w: np.ndarray  # (n_patients, n_sources), 0 where a source was not kept
    lam: np.ndarray  # (n_patients, n_sources), NaN where a source was not kept

    @property
    def target_coefficient(self) -> np.ndarray:
        """``c_t = sum_k w_k lam_k`` of each patient, ``(n_patients,)``."""
        total: np.ndarray = (self.w * np.nan_to_num(self.lam)).sum(axis=1)
        return total

    @property
    def source_coefficients(self) -> np.ndarray:
        """``c_k = w_k (1 - lam_k)`` of each patient, ``(n_patients, n_sources)``."""
        found: np.ndarray = self.w * (1.0 - np.nan_to_num(self.lam))
        return found

    def of_sources(self, names: Sequence[str]) -> dict[str, SourceUse]:
        """Per source, the share of patients who kept it, and their mean w and lam."""
        kept = self.w != 0
        users = np.maximum(kept.sum(axis=0), 1)
        shares = kept.sum(axis=0) / max(len(self.w), 1)
        columns = zip(names, shares, self.w.sum(axis=0) / users, np.nansum(self.lam, axis=0) / users, strict=True)
        return {name: SourceUse(*(round(float(x), 6) for x in values)) for name, *values in columns}


def usage_of(routing: Routing) -> Usage:
    """The weights of the merges of one stack of bags."""
    # Not w > 0: a learnable weight may be negative, and is then merged too.
    kept = torch.zeros_like(routing.w).scatter(1, routing.kept, 1.0) * routing.w != 0
    w = torch.where(kept, routing.w, 0.0)
    lam = torch.where(kept, routing.lam, torch.nan)
    return Usage(w.detach().cpu().numpy(), lam.detach().cpu().numpy())


@torch.no_grad()
def usage(model: Steph, cohort: Cohort, device: torch.device) -> Usage:
    """Compute the merge weights of every patient of a cohort, with dropout off."""
    model.to(device).eval()
    n_sources = model.mixture.n_sources
    found = Usage(np.zeros((len(cohort), n_sources)), np.full((len(cohort), n_sources), np.nan))
    for group, batch in batches(cohort, range(len(cohort)), model.head.out_features, device):
        one = usage_of(model.route(batch.bags, batch.mask))
        found.w[group], found.lam[group] = one.w, one.lam
    return found
