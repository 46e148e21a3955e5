"""Computes metrics besides the C-index, per test fold: Uno's C, Brier score, AUC at a horizon, calibration (torchsurv).

Censoring weights come from the Kaplan-Meier curve of the *training* patients. Survival is predicted per year of 365
days, so it is evaluated at the ends of years. A metric is None if the fold has too little follow-up or no patient
with an event for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.evaluation.censoring import Censoring
from fedsteph.client.evaluation.kaplan_meier import survival_curve
from fedsteph.common.model.survival import DAYS_PER_BIN, risk_score, survival_from_hazards

YEARS = (1, 3, 5)
_CALIBRATED_AT = 3  # years
_GROUPS = 4  # of equal size by predicted risk


@dataclass(frozen=True)
class Metrics:
    """Metrics of one model on one test fold. C and AUC: 1 is best, 0.5 is chance; Brier: 0 is best."""

    uno_c: float | None = None
    brier: float | None = None  # integrated over the years with follow-up
    auc_1y: float | None = None
    auc_3y: float | None = None
    auc_5y: float | None = None
    calibration_gap_3y: float | None = None  # mean predicted minus observed probability of an event within 3 years
    calibration_error_3y: float | None = None  # mean absolute gap of four groups by predicted risk

    def to_dict(self) -> dict[str, float | None]:
        """The metrics by name, ready for JSON."""
        return asdict(self)


METRICS = tuple(asdict(Metrics()))
# Column titles in tables.
METRIC_TITLES = {
    "uno_c": "Uno's C",
    "brier": "Brier score (lower is better)",
    "auc_1y": "AUC at 1 year",
    "auc_3y": "AUC at 3 years",
    "auc_5y": "AUC at 5 years",
    "calibration_gap_3y": "events within 3 years, predicted minus observed",
    "calibration_error_3y": "calibration error at 3 years",
}


def further_rows(rows: Sequence[tuple[str, Mapping[str, float | None]]]) -> tuple[list[str], list[list[str]]]:
    """Header and body of a table of these metrics, from each method's title and metrics by name."""
    header = ["method", *METRIC_TITLES.values()]
    return header, [[title, *(number(found[name]) for name in METRIC_TITLES)] for title, found in rows]


def number(value: float | None) -> str:
    """The value with three decimals, or a dash for None."""
    return "-" if value is None else f"{value:.3f}"


def further_metrics(hazards: np.ndarray, test: Cohort, train: Cohort) -> Metrics:
    """Compute all metrics of one model from its hazards ``(n_test_patients, n_bins)``."""
    survival = survival_from_hazards(torch.from_numpy(hazards)).float()
    # torchsurv computes in float32, in which close risks would tie; Uno's C depends only on their order.
    risk = torch.unique(risk_score(torch.from_numpy(hazards)), return_inverse=True)[1].float()
    t, e = torch.tensor(test.times, dtype=torch.float32), torch.from_numpy(test.events > 0)
    if len(test) < 2 or not bool(e.any()) or len(set(train.events.tolist())) < 2:
        return Metrics()  # too few patients or events, or no curve of events or censoring
    censoring = Censoring(torch.tensor(train.times, dtype=torch.float32), torch.from_numpy(train.events > 0))
    # Beyond the horizon the censoring curve, and so every weight, is unknown.
    horizon = min(float(t.max()), censoring.known_until)
    n_bins = survival.shape[1]
    years = [year for year in YEARS if year <= n_bins]  # the model says nothing of later ones
    auc = {f"auc_{year}y": _auc(survival[:, year - 1], t, e, year, censoring, horizon) for year in years}
    uno_c, brier = _uno_c(risk, t, e, censoring, horizon), _brier(survival, t, e, censoring, horizon)
    if n_bins < _CALIBRATED_AT:
        return Metrics(uno_c, brier, **auc)
    gap, error = _calibration(1.0 - survival[:, _CALIBRATED_AT - 1], t, e, horizon)
    return Metrics(uno_c, brier, **auc, calibration_gap_3y=gap, calibration_error_3y=error)


def mean_metrics(folds: Sequence[Metrics]) -> dict[str, float | None]:
    """Mean of each metric over the folds in which it is defined."""
    return {name: defined_mean([getattr(fold, name) for fold in folds]) for name in METRICS}


def defined_mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def _uno_c(risk: Tensor, t: Tensor, e: Tensor, censoring: Censoring, horizon: float) -> float | None:
    from torchsurv.metrics.cindex import ConcordanceIndex  # noqa: PLC0415 (a second to import)

    counted = e & (t < horizon)
    if not bool((counted & (t < t.max())).any()):
        return None
    weight, until = censoring.weight(t), torch.tensor(horizon, dtype=t.dtype)
    return _defined(ConcordanceIndex()(risk, e, t, weight=weight, tmax=until, instate=False))


def _brier(survival: Tensor, t: Tensor, e: Tensor, censoring: Censoring, horizon: float) -> float | None:
    from torchsurv.metrics.brier_score import BrierScore  # noqa: PLC0415

    years = [year for year in range(1, survival.shape[1] + 1) if float(t.min()) <= year * DAYS_PER_BIN < horizon]
    if len(years) < 2:
        return None
    at = torch.tensor([year * DAYS_PER_BIN for year in years], dtype=t.dtype)
    score = BrierScore()
    curves = survival[:, [year - 1 for year in years]]
    score(curves, e, t, new_time=at, weight=censoring.weight(t), weight_new_time=censoring.weight(at))
    return _defined(score.integral())


def _auc(survival: Tensor, t: Tensor, e: Tensor, year: int, censoring: Censoring, horizon: float) -> float | None:
    from torchsurv.metrics.auc import Auc  # noqa: PLC0415

    day = year * DAYS_PER_BIN
    if not float(t.min()) <= day < horizon or not bool((e & (t <= day)).any()):
        return None
    at = torch.tensor([day], dtype=t.dtype)
    weights = {"weight": censoring.weight(t), "weight_new_time": censoring.weight(at)}
    return _defined(Auc()(1.0 - survival, e, t, new_time=at, **weights, instate=False)[0])


def _calibration(predicted: Tensor, t: Tensor, e: Tensor, horizon: float) -> tuple[float | None, float | None]:
    if horizon < _CALIBRATED_AT * DAYS_PER_BIN or len(t) < 2 * _GROUPS:
        return None, None
    groups = torch.tensor_split(torch.argsort(predicted, stable=True), _GROUPS)
    gaps = [float(predicted[group].mean()) - _observed(t[group], e[group]) for group in groups]
    return float(predicted.mean()) - _observed(t, e), fmean(abs(gap) for gap in gaps)


def _observed(t: Tensor, e: Tensor) -> float:
    """Kaplan-Meier probability of an event within ``_CALIBRATED_AT`` years."""
    if not bool(e.any()):
        return 0.0
    at = torch.tensor(_CALIBRATED_AT * DAYS_PER_BIN, dtype=t.dtype)
    return 1.0 - float(survival_curve(t, e).at(at))


def _defined(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
