"""Predicts each patient's risk and yearly survival by one model or the mean of several, and gives the sources used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedsteph.client.data.bags import BagCache, Cohort
from fedsteph.client.data.headers import known_header
from fedsteph.client.data.instances import InstanceRule
from fedsteph.client.data.problems import Problem
from fedsteph.client.models.final_file import Members
from fedsteph.client.models.members import followed_by_all
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.new_patients import NewPatients
from fedsteph.client.models.slide_features import UNLIKE
from fedsteph.client.steph.model import Steph
from fedsteph.common.errors import DataError, EncoderError
from fedsteph.common.host.progress import Progress
from fedsteph.common.model.survival import risk_score, survival_from_hazards

_EXAMPLES = 3  # slides that a warning names


@dataclass(frozen=True)
class ClinicalView:
    """The prediction from one patient's clinical values, alone and together with the slide's risk."""

    risk: float  # log hazard relative to a mean training patient
    risk_both: float
    survival: np.ndarray  # (n_years,)
    survival_both: np.ndarray  # (n_years,)


@dataclass(frozen=True)
class PatientView:
    """The prediction for one patient: a model's, or the means over several models."""

    id: str
    risk: float
    percentile: float | None  # percent of the training patients with a lower risk; None if a file has no percentiles
    survival: np.ndarray  # (n_years,) probability of surviving each year, as far as training patients were followed
    local_survival: np.ndarray | None  # the same from the local model stored with an enhanced one, if any
    w: Mapping[str, float]  # of each source of an enhanced model; 0 if the source was not kept
    lam: Mapping[str, float]  # likewise
    risk_local: float | None = None  # by the local model stored with an enhanced one, if any
    risk_range: tuple[float, float] | None = None  # 2.5th and 97.5th percentile of several models' risks
    # slide -> how unlike the training slides it is (SlideFeatures.unlike); empty if the file does not hold theirs
    unlike: Mapping[str, float] = field(default_factory=dict)
    # 2.5th and 97.5th percentile of several models' survival, (n_years,) each
    survival_range: tuple[np.ndarray, np.ndarray] | None = None
    slides: tuple[str, ...] = ()  # of the patient, in the table's order
    clinical: ClinicalView | None = None  # of a final model with a clinical model, if the values are given


def views_of(members: Members, new: NewPatients, report: Progress) -> list[PatientView]:
    """Predict every patient by all members.

    Raises:
        EncoderError: features were made otherwise than a member's.
        DataError: a feature file cannot be used, or a prediction is not finite.
    """
    models = members.models
    for path in new.files.values():
        for loaded in models:
            require_extraction(loaded, path)
    architecture = models[0].architecture
    cohort = Cohort(new.patients, new.files, architecture.width, BagCache(0))
    asked = cohort.under(InstanceRule.of(architecture))
    years, views = followed_by_all(models), []
    for i, patient in enumerate(cohort.patients):
        bag = cohort.bag(i)
        seen = asked.as_asked(i, bag)
        view = _together([_alone(patient.id, loaded, seen) for loaded in models], years)
        view = replace(view, slides=patient.slides)
        if members.reference is not None:
            view = replace(view, percentile=_percentile(view.risk, members.reference))
        if members.slides is not None:
            parts = cohort.by_slide(i, bag).items()
            view = replace(view, unlike={slide: members.slides.unlike(part) for slide, part in parts})
        views.append(view)
        report(i + 1, len(cohort))
    return views


def unlike_slides(views: Sequence[PatientView]) -> Problem | None:
    """One warning about all slides whose features are unlike the training slides'; None if there is none."""
    found = {slide: times for view in views for slide, times in view.unlike.items() if not times <= UNLIKE}
    if not found:
        return None
    n, shown = sum(len(view.unlike) for view in views), sorted(found, key=lambda slide: -found[slide])[:_EXAMPLES]
    numbers = ", ".join(f"{slide} {found[slide]:.1f} times" for slide in shown)
    what = (
        f"the features of {len(found)} of {n} slides are unlike the training slides': as far from their mean as the "
        f"farthest of them, {numbers} (above {UNLIKE:g} is unlike)"
    )
    remedy = "Look whether scanner, stain and encoder are those of the training slides; do not trust these predictions"
    return Problem("warning", "features", what, remedy)


def table_of(views: Sequence[PatientView]) -> pd.DataFrame:
    """The predictions as a table, one row per patient; what is known of no patient has no column."""
    return pd.DataFrame([_row(view) for view in views])


def refuse_overwriting(path: Path, inputs: Sequence[Path | None]) -> None:
    """Raise DataError for a path that is an input, lies in an input folder, or is a folder itself."""
    if {one.resolve() for one in inputs if one is not None} & {path.resolve(), *path.resolve().parents}:
        raise DataError("would overwrite what is read", where=path, remedy="Choose another file to write")
    if path.is_dir():
        raise DataError("is a folder", where=path, remedy="Give the path of a file to write")


def require_extraction(loaded: LoadedModel, path: Path) -> None:
    """Raise EncoderError for another encoder, magnification or patch size than the model's, if both are stated."""
    found = known_header(path).extraction
    if not found.agrees_with(loaded.extraction):
        what = f"the features are of {found}, the model's of {loaded.extraction}"
        raise EncoderError(what, where=path, remedy="Extract them as the model's were extracted")


@torch.no_grad()
def _alone(name: str, loaded: LoadedModel, bag: Tensor) -> PatientView:
    """One model's prediction, for all years that it has."""
    bags = bag.unsqueeze(0)
    w, lam = {}, {}
    if isinstance(loaded.model, Steph):
        routing = loaded.model.route(bags)
        hazards = loaded.model.hazards(bags, None, routing)[0]
        kept = {int(k) for k in routing.kept[0]}
        for k, source in enumerate(loaded.sources):
            w[source] = float(routing.w[0, k]) if k in kept else 0.0
            lam[source] = float(routing.lam[0, k])
    else:
        hazards = loaded.model(bags)[0]
    risk, survival = _survived(hazards)
    own = (None, None) if loaded.local is None else _survived(loaded.local.model(bags)[0])
    if not np.isfinite([risk, *survival, *([] if own[1] is None else own[1]), *w.values(), *lam.values()]).all():
        what = "the model's risk or survival is not finite, so nothing is predicted for anyone"
        remedy = "Look for extreme values in this patient's features, or leave the patient out"
        raise DataError(what, where=f"patient {name}", remedy=remedy)
    percentile = None if loaded.reference is None else _percentile(risk, loaded.reference)
    return PatientView(name, risk, percentile, survival, own[1], w, lam, own[0])


def _survived(hazards: Tensor) -> tuple[float, np.ndarray]:
    hazards = hazards.double()
    return float(risk_score(hazards)), survival_from_hazards(hazards).numpy()


def _together(alone: Sequence[PatientView], years: int | None) -> PatientView:
    """The means over members, of so many years.

    A member without a source merged nothing of it, so its ``w`` counts as 0; of ``lam`` it has nothing to say. Beside
    enhanced members, a local one is its own local model.
    """
    sources = dict.fromkeys(source for one in alone for source in one.w)
    if sources:
        alone = [one if one.w else replace(one, local_survival=one.survival, risk_local=one.risk) for one in alone]
    survival, local = (_mean([getattr(one, name) for one in alone]) for name in ("survival", "local_survival"))
    spread = None if len(alone) == 1 else np.percentile([one.risk for one in alone], [2.5, 97.5])
    low_high = None if spread is None else np.percentile([one.survival[:years] for one in alone], [2.5, 97.5], axis=0)
    return PatientView(
        alone[0].id,
        _mean([one.risk for one in alone]),
        _mean([one.percentile for one in alone]),
        survival[:years],
        None if local is None else local[:years],
        {source: _mean([one.w.get(source, 0.0) for one in alone]) for source in sources},
        {source: _mean([one.lam[source] for one in alone if source in one.lam]) for source in sources},
        _mean([one.risk_local for one in alone]),
        None if spread is None else (float(spread[0]), float(spread[1])),
        survival_range=None if low_high is None else (low_high[0], low_high[1]),
    )


def _mean(values: Sequence[Any]) -> Any:
    """Mean of numbers, or of arrays element by element; None if one is missing."""
    if any(value is None for value in values):
        return None
    found = np.mean(values, axis=0)
    return found if found.ndim else float(found)


def _percentile(risk: float, reference: np.ndarray) -> float:
    """Percent of the training patients with a lower risk, interpolated between percentiles."""
    first = int(np.searchsorted(reference, risk))
    if first < len(reference) and reference[first] == risk:
        return 100.0 * first / (len(reference) - 1)  # the first of equal percentiles
    return float(np.interp(risk, reference, np.linspace(0, 100, len(reference))))


def _row(view: PatientView) -> dict[str, Any]:
    low, high = view.risk_range or (None, None)
    compared = {"percentile": view.percentile, "risk_local": view.risk_local, "risk_low": low, "risk_high": high}
    compared["unlike"] = max(view.unlike.values(), default=None)
    years = {f"survival_{year}y": float(value) for year, value in enumerate(view.survival, 1)}
    weights: dict[str, float] = {}
    for source in view.w:
        weights |= {f"w_{source}": view.w[source], f"lam_{source}": view.lam[source]}
    known = {name: value for name, value in compared.items() if value is not None}
    if view.clinical is not None:
        known |= {"risk_clinical": view.clinical.risk, "risk_both": view.clinical.risk_both}
        both = enumerate(view.clinical.survival_both[: len(view.survival)], 1)
        years |= {f"survival_both_{year}y": float(value) for year, value in both}
    return {"patient_id": view.id, "risk": view.risk, **known, **years, **weights}
