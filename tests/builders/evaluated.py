"""Model files that know whom they were trained on, for external validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsteph.client.data.bags import BagCache, Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.models.model_file import save_base
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model

SIZES = Architecture(width=6, embed=4, attention=3, n_bins=8)
M0 = "0" * 64


def write_model(path: Path, seed: int, trained=(), *, years: int | None = 5, match=(), cut_off=(-9.0, 0.0)) -> None:
    model = untrained_model(SIZES, seed)
    patients = [Patient(name, 1.0, 1, ()) for name in trained]
    known = TrainedOn.of(Cohort(patients, {}, 6, BagCache(0), match=match), model) if trained else None
    reference = np.linspace(*cut_off, 101)
    save_base(path, model, m0_sha256=M0, reference=reference, followed_years=years, trained_on=known)
