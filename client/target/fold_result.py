"""The results of one fold of a target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedsteph.client.evaluation.decision import Decision, Selection
from fedsteph.client.evaluation.metrics import Metrics
from fedsteph.client.screening.verdict import Verdict
from fedsteph.client.steph.usage import SourceUse, Usage
from fedsteph.common.model.concordance import Pairs, pairs


@dataclass(frozen=True)
class FoldResult:
    """All results of one fold of a target. They contain patients' risks, so they stay at the site."""

    selection: Selection
    collapsed: bool
    decision: Decision  # on the method that is deployed
    model: Path  # the deployed model
    sources: dict[str, SourceUse]  # how the test patients' merges used the sources that were merged
    times: np.ndarray
    events: np.ndarray
    risk: dict[str, np.ndarray]  # method -> (n_test_patients,); local, the comparators, steph, panel, deployed
    uno_weight: np.ndarray  # (n_test_patients,), of each test patient's event in Uno's C
    metrics: dict[str, Metrics]  # method -> metrics beyond the C-index
    learnable: dict[str, int]  # method -> parameters learned at the target
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # on every received vector
    enhanced: Path | None = None  # STEPH's model; None where every source was refused
    ids: tuple[str, ...] = ()  # of the test patients
    # local, steph, panel, deployed: (n_test_patients, n_bins)
    hazards: dict[str, np.ndarray] = field(default_factory=dict)
    cut_off: dict[str, float] = field(default_factory=dict)  # same methods: median risk of the training patients
    # same methods: the percentiles (101,) of the training patients' risks under the fold's model
    reference: dict[str, np.ndarray] = field(default_factory=dict)
    # same methods: (n_train_patients,) risk of every training patient, in the order of the fold's training part, by an
    # inner fold's model that has not seen the patient, on SlideScale's scale of that model; empty without inner folds
    cross_fitted: dict[str, np.ndarray] = field(default_factory=dict)
    usage: Usage | None = None  # the test patients' merges, by source in the order of ``sources``

    def pairs(self, method: str) -> Pairs:
        """The fold's comparable pairs of test patients under a method's risks."""
        return pairs(self.risk[method], self.times, self.events)
