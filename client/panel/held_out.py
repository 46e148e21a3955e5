"""What the panel's weights are learned from: scores of patients by models that have not seen them.

The target's own and its enhanced model are those of the inner folds. Received models have seen none of its patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedsteph.client.data.bags import Cohort
from fedsteph.common.config.panel_config import GROUPS, PanelConfig


@dataclass(frozen=True)
class Part:
    """The patients of one inner validation part, and their standardised scores by group of models."""

    scores: np.ndarray  # (n_patients, n_groups), in the order of a panel's groups
    times: np.ndarray  # days
    events: np.ndarray  # 1 = event


@dataclass(frozen=True)
class SourceGroups:
    """The received models that can predict: their scores of a fold's training patients, and who is of which group.

    Args:
        scores: ``(n_patients, n_sources)``.
        members: group -> columns of ``scores``; empty groups are left out.
        place: patient ID -> row of ``scores``.
    """

    scores: np.ndarray
    members: Mapping[str, tuple[int, ...]]
    place: Mapping[str, int]

    @classmethod
    def of(cls, scores: np.ndarray, cohort: Cohort, heads: Sequence[bool], kin: Sequence[bool]) -> SourceGroups:
        """Group the sources: those with a head, by whether they are of the target's cancer (``kin``)."""
        of_group = {"same_cancer": True, "other_cancers": False}
        members = {
            group: tuple(k for k, has in enumerate(heads) if has and kin[k] == is_kin)
            for group, is_kin in of_group.items()
        }
        place = {patient.id: i for i, patient in enumerate(cohort.patients)}
        return cls(scores, {group: found for group, found in members.items() if found}, place)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the panel, in the order of :data:`GROUPS`."""
        return tuple(group for group in GROUPS if group in ("steph", "local") or group in self.members)

    def weights(self, learned: Mapping[str, float], config: PanelConfig) -> dict[str, float]:
        """The weight of every group: as learned, or as expected where inner validation had no model of the group."""
        return {group: learned.get(group, config.expected(group)) for group in self.groups}

    @cached_property
    def factors(self) -> dict[int, float]:
        """Source -> factor on its score, which makes a group's sum one of unit spread over these patients."""
        found: dict[int, float] = {}
        for columns in self.members.values():
            each = self.scores[:, columns] / spread(self.scores[:, columns])
            whole = float(spread(each.mean(axis=1)))
            found |= {k: 1.0 / (len(columns) * whole * float(spread(self.scores[:, k]))) for k in columns}
        return found

    def part(self, steph: Sequence[float], local: Sequence[float], cohort: Cohort) -> Part:
        """One inner validation part, from its patients' standardised scores under the inner fold's two models."""
        rows = [self.place[patient.id] for patient in cohort.patients]
        centred, factors = self.scores - self.scores.mean(axis=0), self.factors
        columns = {"steph": np.array(steph), "local": np.array(local)}
        for group, members in self.members.items():
            columns[group] = sum((factors[k] * centred[rows, k] for k in members), np.zeros(len(rows)))
        return Part(np.stack([columns[group] for group in self.groups], axis=1), cohort.times, cohort.events)


def spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over patients, 1 where all are alike: such a score then stays 0."""
    found = values.std(axis=0)
    return np.where(found > 1e-12, found, 1.0)
