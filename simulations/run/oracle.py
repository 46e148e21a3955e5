"""Rows that only a synthetic world's target has, because its truth is known: the oracle, and the bounds of merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fedsteph.client.data.bags import Cohort
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.results import method_row
from fedsteph.common.config.run_config import Config
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.method_scores import MethodScores
from fedsteph.simulations.run.merging_bounds import Fold, best_static, routed
from fedsteph.simulations.worlds.drawn_sites import TRUTH_FILE


def truth_rows(files: TargetFiles, target: Site, sites: Sequence[Site], config: Config) -> dict[str, MethodScores]:
    """The target's rows by name; none if the true risk of a patient is unknown.

    ``oracle``: the true risk of the test patients. Where the target's patients are of kinds: ``best_static_merge``, the
    best merge with the same coefficients for all patients, searched on the test patients; and ``oracle_routing``, a
    merge of the sources of each patient's true kind.
    """
    truth = _truth(target)
    if truth is None:
        return {}
    workspace = Workspace.open(replace(target, file=replace(target.file, device="cpu")), config.recipe)
    parts = [workspace.test_part(fold) for fold in range(len(workspace.splits))]
    known = [truth.reindex([patient.id for patient in part.patients]) for part in parts]
    if any(part["risk"].isna().any() for part in known):
        return {}
    risks = {"oracle": [part["risk"].to_numpy() for part in known]}
    if "kind" in truth and truth["kind"].nunique() > 1:
        risks |= _of_kinds(files, parts, known, sites, config)
    return {name: _row(parts, found, config) for name, found in risks.items()}


def _of_kinds(
    files: TargetFiles, parts: Sequence[Cohort], known: Sequence[pd.DataFrame], sites: Sequence[Site], config: Config
) -> dict[str, list[np.ndarray]]:
    """Test risks per fold of the bounds; none if every source was refused in a fold."""
    folds = [Fold.of(files, k, part) for k, part in enumerate(parts)]
    whole = [fold for fold in folds if fold is not None]
    if len(whole) < len(folds):
        return {}
    kind_of = {site.name: str(truth["kind"].iloc[0]) for site in sites if (truth := _truth(site)) is not None}
    kinds = [part["kind"].tolist() for part in known]
    return {
        "best_static_merge": best_static(whole),
        "oracle_routing": [routed(*one, kind_of, config.steph) for one in zip(whole, kinds, strict=True)],
    }


def _truth(site: Site) -> pd.DataFrame | None:
    path = site.folder / TRUTH_FILE
    return pd.read_csv(path, dtype={"patient_id": str}).set_index("patient_id") if path.exists() else None


def _row(parts: Sequence[Cohort], risks: Sequence[np.ndarray], config: Config) -> MethodScores:
    tested = [pairs(risk, part.times, part.events) for part, risk in zip(parts, risks, strict=True)]
    return method_row(tested, config.evaluation)
