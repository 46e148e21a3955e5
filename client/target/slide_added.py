"""What the slide adds to clinical values at a target: Cox models of its folds, judged on the folds' test patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedsteph.client.clinical.clinical_result import ClinicalColumn, ClinicalResult, DecisionCurve, SlideAdds
from fedsteph.client.clinical.encoding import Encoding, Gaps
from fedsteph.client.clinical.likelihood_ratio import likelihood_ratio
from fedsteph.client.clinical.ridge_cox import RidgeCox
from fedsteph.client.clinical.slide_scale import SlideScale
from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.client.evaluation.at_years import Outcomes
from fedsteph.client.evaluation.net_benefit import THRESHOLDS, net_benefit
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.client.target.results import difference, method_row
from fedsteph.common.config.recipe import EvaluationConfig
from fedsteph.common.errors import TrainingError
from fedsteph.common.model.concordance import Pairs, pairs

CLINICAL, DEPLOYED = "clinical", "deployed"
CURVE_YEARS = (3, 5)
_NO_INNER = "what the slide adds cannot be measured: a fold has too few patients for inner folds"


@dataclass(frozen=True)
class Judged:
    """A fold's test patients under its Cox models; of clinical values, and by method of the slide's risk too."""

    fold: FoldResult
    risk: Mapping[str, np.ndarray]  # (n_test_patients,) log hazard
    survival: Mapping[str, np.ndarray]  # (n_test_patients, n_years)
    gaps: Mapping[str, Gaps]

    def pairs(self, row: str) -> Pairs:
        """The fold's comparable pairs of test patients."""
        return pairs(self.risk[row], self.fold.times, self.fold.events)


def slide_added(workspace: Workspace, folds: Sequence[FoldResult]) -> ClinicalResult | None:
    """The clinical part of a target's result; None where its site file names no clinical columns."""
    values, evaluation = workspace.cohort.clinical, workspace.recipe.evaluation
    if values is None:
        return None
    try:
        judged = [_judged(values, workspace.train_part(k), fold) for k, fold in enumerate(folds)]
    except TrainingError as error:
        return ClinicalResult(_columns(values, workspace.cohort, []), untold=error.sentence)
    tested = {row: [one.pairs(row) for one in judged] for row in judged[0].risk}
    both = [row for row in tested if row != CLINICAL and all(row in one.risk for one in judged)]
    return ClinicalResult(
        columns=_columns(values, workspace.cohort, judged),
        untold=None if both else _NO_INNER,
        clinical=method_row(tested[CLINICAL], evaluation),
        both={method: method_row(tested[method], evaluation) for method in both},
        added={method: _added(method, tested, values, folds, evaluation) for method in both},
        curves=_curves(judged) if both else (),
    )


def out_of_fold(folds: Sequence[FoldResult], method: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """IDs, standardised risks of the slide, times and events of all test patients, each once, from the first fold."""
    ids = np.concatenate([np.array(fold.ids, dtype=np.str_) for fold in folds])
    risk = np.concatenate([SlideScale.of(f.reference[method]).standardised(f.risk[method]) for f in folds])
    times, events = (np.concatenate([getattr(fold, name) for fold in folds]) for name in ("times", "events"))
    first = first_of(ids)
    return ids[first].tolist(), risk[first], times[first], events[first]


def first_of(ids: np.ndarray) -> np.ndarray:
    """The places where each patient occurs first, in order."""
    found: np.ndarray = np.sort(np.unique(ids, return_index=True)[1])
    return found


def _judged(values: ClinicalValues, train: Cohort, fold: FoldResult) -> Judged:
    of_train, of_test = values.of(patient.id for patient in train.patients), values.of(fold.ids)
    encoding = Encoding.of(of_train)
    numbers, asked = encoding.numbers(of_train), encoding.numbers(of_test)
    cox = {CLINICAL: RidgeCox.fit(numbers, train.times, train.events)}
    given = {CLINICAL: asked}
    for method, slide in fold.cross_fitted.items():
        tested = SlideScale.of(fold.reference[method]).standardised(fold.risk[method])
        given[method] = np.column_stack([asked, tested])
        if method != DEPLOYED:  # that is one of the others
            cox[method] = RidgeCox.fit(np.column_stack([numbers, slide]), train.times, train.events)
    if DEPLOYED in given:
        cox[DEPLOYED] = cox[fold.decision.method]
    return Judged(
        fold,
        risk={row: one.risk(given[row]) for row, one in cox.items()},
        survival={row: one.survival(given[row]) for row, one in cox.items()},
        gaps=encoding.gaps(of_test),
    )


def _added(
    method: str,
    tested: Mapping[str, Sequence[Pairs]],
    values: ClinicalValues,
    folds: Sequence[FoldResult],
    evaluation: EvaluationConfig,
) -> SlideAdds:
    ids, slide, times, events = out_of_fold(folds, method)
    of_all = values.of(ids)
    ratio = likelihood_ratio(Encoding.of(of_all).numbers(of_all), slide, times, events)
    gap = difference(tested[method], tested[CLINICAL], evaluation)
    return SlideAdds(**vars(gap), likelihood_ratio=ratio)


def _curves(judged: Sequence[Judged]) -> tuple[DecisionCurve, ...]:
    """Of the deployed model, over all test patients once, for the years that training and test patients support."""
    first = first_of(np.concatenate([np.array(one.fold.ids, dtype=np.str_) for one in judged]))
    times, events = (np.concatenate([getattr(one.fold, name) for one in judged])[first] for name in ("times", "events"))
    trained = min(one.survival[CLINICAL].shape[1] for one in judged)
    found = []
    for year in CURVE_YEARS:
        if year > trained or not Outcomes(times, events).follows(year):
            continue
        benefit = {"all": net_benefit(np.ones(len(times)), times, events, year), "none": (0.0,) * len(THRESHOLDS)}
        for name, row in (("clinical", CLINICAL), ("both", DEPLOYED)):
            alive = np.concatenate([one.survival[row][:, year - 1] for one in judged])[first]
            benefit[name] = net_benefit(1.0 - alive, times, events, year)
        found.append(DecisionCurve(year, THRESHOLDS, benefit))
    return tuple(found)


def _columns(values: ClinicalValues, cohort: Cohort, judged: Sequence[Judged]) -> dict[str, ClinicalColumn]:
    of_all, n_tested = values.of(patient.id for patient in cohort.patients), sum(len(one.fold.ids) for one in judged)
    found = {}
    for column, kind in values.kinds.items():
        if kind == "category":
            missing = float((of_all.categories(column) == "").mean())
        else:
            missing = float(np.isnan(of_all.measured(column)).mean())
        unseen = sum(one.gaps[column].unseen for one in judged if column in one.gaps)
        name = "ordinal" if isinstance(kind, tuple) else kind
        found[column] = ClinicalColumn(name, round(missing, 2), round(unseen / max(1, n_tested), 2))
    return found
