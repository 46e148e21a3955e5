"""The oracle row: the C-index of the true risk of a synthetic site's patients, an upper bound except for chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.results import method_row
from fedsteph.common.config.run_config import Config
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.simulations.run.synthetic_cohorts import TRUTH_FILE


def oracle_row(site: Site, config: Config) -> MethodScores | None:
    """C-index of the true risk on a site's test folds; None if the true risk of a patient is unknown."""
    path = site.folder / TRUTH_FILE
    if not path.exists():
        return None
    truth = pd.read_csv(path, dtype={"patient_id": str}).set_index("patient_id")["risk"]
    workspace = Workspace.open(replace(site, file=replace(site.file, device="cpu")), config.recipe)
    folds = []
    for fold in range(len(workspace.splits)):
        test = workspace.test_part(fold)
        risk = truth.reindex([patient.id for patient in test.patients]).to_numpy()
        if np.isnan(risk).any():
            return None
        folds.append(pairs(risk, test.times, test.events))
    return method_row(folds, config.evaluation)
