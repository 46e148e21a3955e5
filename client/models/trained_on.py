"""Which patients a model was trained on, as salted digests of their IDs, so that a later evaluation can tell.

Whoever holds the digests can test whether an ID is among them, and so try out short IDs: they stay at the site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.matching import same
from fedsteph.client.data.settings import Rule
from fedsteph.client.training.batch import head_of

_SALT = 32  # hexadecimal digits


@dataclass(frozen=True)
class Salting:
    """How the digests were made."""

    n: int  # patients
    salt: str  # of this model alone, so that two files cannot be compared
    match: tuple[Rule, ...] = ()  # the rules of the training site's data.match, under which IDs are the same

    def __post_init__(self) -> None:
        if self.n < 1 or len(self.salt) != _SALT:
            raise ValueError("no training patients, or a salt of another length")

    def digest(self, patient: str) -> int:
        """The first 8 bytes of SHA-256 over salt and ID, as a signed number."""
        text = f"{self.salt}/{same(patient, self.match)}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)


@dataclass(frozen=True)
class TrainedOn:
    """The training patients of one model."""

    salting: Salting
    digests: np.ndarray  # (n,) int64, ascending, so that their order tells nothing

    @classmethod
    def of(cls, cohort: Cohort, model: nn.Module) -> TrainedOn:
        """The patients of ``cohort``. The salt is made from the trained weights: the same training, the same file."""
        weights = head_of(model).weight.detach().cpu().numpy().tobytes()
        salting = Salting(len(cohort), hashlib.sha256(weights).hexdigest()[:_SALT], cohort.match)
        found = sorted(salting.digest(patient.id) for patient in cohort.patients)
        return cls(salting, np.array(found, dtype=np.int64))

    def among(self, patients: Iterable[str]) -> set[str]:
        """Those of the IDs that were in training."""
        known = {*self.digests.tolist()}
        return {patient for patient in patients if self.salting.digest(patient) in known}
