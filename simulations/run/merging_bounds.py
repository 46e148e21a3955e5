"""Bounds of merging where patients are of kinds: the best static merge, and routing by each patient's true kind.

Both merge the vectors that a fold's enhanced model merges, and keep the head of the fold's local model. The best static
merge is searched on the test patients, which no method may do: it is an upper bound of what the same coefficients for
all patients can reach with that head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.training.batch import Batch, batches
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.encode import encode
from fedsteph.common.model.survival import risk_score

_STEPS = (0.5, 0.25)  # of the search, from coarse to fine


@dataclass(frozen=True)
class Fold:
    """One fold's vectors to merge, its local model, and its test patients, stacked."""

    sources: tuple[str, ...]
    mixture: Mixture
    local: BaseModel
    test: Cohort
    stacks: tuple[tuple[list[int], Batch], ...]

    @classmethod
    def of(cls, files: TargetFiles, fold: int, test: Cohort) -> Fold | None:
        """The fold's merge; None if every source was refused."""
        found = files.enhanced(fold)
        if found is None:
            return None
        loaded, steph = found
        assert loaded.local is not None  # only files of earlier versions have none
        stacks = batches(test, range(len(test)), steph.head.out_features, torch.device("cpu"))
        return cls(loaded.sources, steph.mixture, loaded.local.model, test, tuple(stacks))

    @torch.no_grad()
    def risk(self, coefficients: Tensor) -> np.ndarray:
        """Test risks ``(n_patients,)`` of a merge with ``coefficients (1 + n_sources,)``, the target's first."""
        theta = {name: one[0] for name, one in self.mixture.merge(coefficients.unsqueeze(0)).items()}
        risk = np.empty(len(self.test))
        for group, batch in self.stacks:
            z, _ = encode(self.mixture.architecture, theta, batch.bags, batch.mask)
            risk[group] = risk_score(torch.sigmoid(self.local.head(z)).double()).numpy()
        return risk


def best_static(folds: Sequence[Fold]) -> list[np.ndarray]:
    """Test risks per fold of the best coefficients that are the same for all patients and folds.

    Sources that some fold left out have no coefficient. The search climbs in mean C-index over folds, one coefficient
    at a time, from the best of: the local model, each source alone, and the mean of all vectors.
    """
    names = [name for name in folds[0].sources if all(name in fold.sources for fold in folds)]
    one = torch.eye(1 + len(names))
    starts = [*one, one.mean(dim=0), one[0] + one[1:].mean(dim=0)]
    best, highest = max(((start, _mean_c(folds, names, start)) for start in starts), key=lambda found: found[1])
    for step in _STEPS:
        while True:
            near = [best + sign * step * way for way in one for sign in (-1, 1)]
            candidate, c = max(((at, _mean_c(folds, names, at)) for at in near), key=lambda found: found[1])
            if c <= highest:
                break
            best, highest = candidate, c
    return [fold.risk(_spread_out(fold, names, best)) for fold in folds]


def routed(fold: Fold, kinds: Sequence[str], kind_of: Mapping[str, str], config: StephConfig) -> np.ndarray:
    """Test risks if STEPH's first merge took, for each patient, only the sources of the patient's true kind.

    Args:
        kinds: of the test patients, in their order.
        kind_of: of the sources.
    """
    risk = np.empty(len(kinds))
    for kind in set(kinds):
        right = torch.tensor([float(kind_of[name] == kind) for name in fold.sources])
        own = torch.tensor([config.start_mass * config.start_lam])
        others = config.start_mass * (1.0 - config.start_lam) * right / right.sum().clamp(min=1.0)
        chosen = np.array(kinds) == kind
        risk[chosen] = fold.risk(torch.cat([own, others]))[chosen]
    return risk


def _mean_c(folds: Sequence[Fold], names: Sequence[str], coefficients: Tensor) -> float:
    scores = []
    for fold in folds:
        risk = fold.risk(_spread_out(fold, names, coefficients))
        scores.append(pairs(risk, fold.test.times, fold.test.events).c_index)
    return float(np.mean([c for c in scores if c is not None] or [0.0]))


def _spread_out(fold: Fold, names: Sequence[str], coefficients: Tensor) -> Tensor:
    """The coefficients in the order of the fold's own sources, 0 for those that are not among ``names``."""
    of_name = dict(zip(names, coefficients[1:], strict=True))
    return torch.stack([coefficients[0], *(of_name.get(name, torch.tensor(0.0)) for name in fold.sources)])
