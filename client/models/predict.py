"""Predicts each patient's risk and yearly survival, and gives the sources kept for the patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedsteph.client.data.bags import BagCache, Cohort
from fedsteph.client.data.formats import SUFFIXES, is_feature_file, is_utf8, read_header
from fedsteph.client.data.problems import refuse_errors
from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.client.data.tables.labels import Patient, read_labels
from fedsteph.client.data.tables.table import read_table
from fedsteph.client.models.model_file import LoadedModel, load_model
from fedsteph.client.steph.model import Steph
from fedsteph.common.errors import DataError, EncoderError, LabelError
from fedsteph.common.host import atomic
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.concordance import pairs
from fedsteph.common.model.survival import risk_score, survival_from_hazards
from fedsteph.common.report.csv_text import csv_text


@dataclass(frozen=True)
class PatientView:
    """A model's prediction for one patient."""

    id: str
    risk: float
    percentile: float | None  # percent of the training patients with a lower risk; None if the file has no percentiles
    survival: np.ndarray  # probability of surviving each year, (n_bins,)
    local_survival: np.ndarray | None  # the same from the local model stored with an enhanced one, if any
    w: Mapping[str, float]  # of each source of an enhanced model; 0 if the source was not kept
    lam: Mapping[str, float]  # likewise


@dataclass(frozen=True)
class Prediction:
    """Summary of a prediction; ``c_index`` is None without outcomes or without a comparable pair."""

    n_patients: int
    c_index: float | None
    n_comparable: int
    views: tuple[PatientView, ...] = ()


def predict(
    model: LoadedModel | Path | str,
    features: Path | str,
    labels: Path | str | None = None,
    report: Progress = silent,
) -> pd.DataFrame:
    """Predict risk and yearly survival of every patient.

    Args:
        model: a model file, local or enhanced, or the result of :func:`fedsteph.load_model`.
        features: a folder of feature files, ``(n_instances, d)`` each.
        labels: CSV that names each patient's slides; None: every file is one patient.
        report: called with the number of patients done and the total.

    Returns:
        one row per patient: ``patient_id``, ``risk`` (no unit, higher is worse), ``survival_1y`` .. (probability of
        surviving so many years of 365 days; extrapolated beyond the longest follow-up of the training patients), and
        for each source of an enhanced model ``w_<source>`` (0 if it was not kept) and ``lam_<source>``.

    Raises:
        ModelFileError: ``model`` is not a model file.
        DataError: a feature file (for example, of another encoder) or the labels cannot be used, or a patient's risk or
            survival is not finite.
    """
    loaded, cohort = _opened(model, Path(features), None if labels is None else Path(labels))
    return table_of(_views(loaded, cohort, report))


def predict_file(
    model: Path,
    features: Path,
    labels: Path | None,
    out: Path,
    report: Progress = silent,
    *,
    with_local: bool = True,
) -> Prediction:
    """Predict every patient as :func:`predict` does, and write the table as CSV; after an error nothing is written.

    Args:
        labels: as in :func:`predict`, with outcomes or without.
        with_local: also predict with the local model stored with an enhanced one; only the views contain the result.

    Raises:
        ModelFileError, DataError: as :func:`predict`; or ``out`` cannot be used.
    """
    refuse_overwriting(out, (model, labels, features))
    loaded, cohort = _opened(model, features, labels)
    outcomes = _outcomes(labels)
    views = _views(loaded, cohort, report, with_local=with_local)
    table = table_of(views)
    atomic.write_text(out, csv_text([[*table], *table.itertuples(index=False)], 9))
    return _judged(views, outcomes)


def table_of(views: Sequence[PatientView]) -> pd.DataFrame:
    """The predictions as the table that :func:`predict` returns."""
    return pd.DataFrame([_row(view) for view in views])


def _opened(model: LoadedModel | Path | str, features: Path, labels: Path | None) -> tuple[LoadedModel, Cohort]:
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    files = _files(features)
    for path in files.values():
        require_extraction(loaded, path)
    patients = [Patient(name, 0.0, 0, of) for name, of in _slides(labels, files).items()]
    return loaded, Cohort(patients, files, loaded.architecture.width, BagCache(0))


def _views(loaded: LoadedModel, cohort: Cohort, report: Progress, *, with_local: bool = False) -> list[PatientView]:
    views = []
    for i, patient in enumerate(cohort.patients):
        views.append(_view(patient.id, loaded, cohort.bag(i), with_local))
        report(i + 1, len(cohort))
    return views


def refuse_overwriting(path: Path, inputs: Sequence[Path | None]) -> None:
    """Raise DataError for a path that is an input, lies in an input folder, or is a folder itself."""
    if {one.resolve() for one in inputs if one is not None} & {path.resolve(), *path.resolve().parents}:
        raise DataError("would overwrite what is read", where=path, remedy="Choose another file to write")
    if path.is_dir():
        raise DataError("is a folder", where=path, remedy="Give the path of a file to write")


def require_extraction(loaded: LoadedModel, path: Path) -> None:
    """Raise EncoderError for another encoder, magnification or patch size than the model's, if both are stated."""
    found = read_header(path).extraction
    if not found.agrees_with(loaded.extraction):
        what = f"the features are of {found}, the model's of {loaded.extraction}"
        raise EncoderError(what, where=path, remedy="Extract them as the model's were extracted")


@torch.no_grad()
def _view(name: str, loaded: LoadedModel, bag: Tensor, with_local: bool) -> PatientView:
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
    own = None
    if with_local and loaded.local is not None:
        own = survival_from_hazards(loaded.local.model(bags)[0].double()).numpy()
    risk, survival = float(risk_score(hazards.double())), survival_from_hazards(hazards.double()).numpy()
    if not np.isfinite([risk, *survival, *([] if own is None else own), *w.values(), *lam.values()]).all():
        what = "the model's risk or survival is not finite, so nothing is predicted for anyone"
        remedy = "Look for extreme values in this patient's features, or leave the patient out"
        raise DataError(what, where=f"patient {name}", remedy=remedy)
    percentile = None if loaded.reference is None else _percentile(risk, loaded.reference)
    return PatientView(name, risk, percentile, survival, own, w, lam)


def _percentile(risk: float, reference: np.ndarray) -> float:
    """Percent of the training patients with a lower risk, interpolated between percentiles."""
    first = int(np.searchsorted(reference, risk))
    if first < len(reference) and reference[first] == risk:
        return 100.0 * first / (len(reference) - 1)  # the first of equal percentiles
    return float(np.interp(risk, reference, np.linspace(0, 100, len(reference))))


def _row(view: PatientView) -> dict[str, Any]:
    years = {f"survival_{year}y": float(value) for year, value in enumerate(view.survival, 1)}
    weights: dict[str, float] = {}
    for source in view.w:
        weights |= {f"w_{source}": view.w[source], f"lam_{source}": view.lam[source]}
    return {"patient_id": view.id, "risk": view.risk, **years, **weights}


def _files(features: Path) -> dict[str, Path]:
    if not features.is_dir():
        raise DataError("there is no such folder", where=features, remedy="Give the folder of feature files")
    files: dict[str, Path] = {}
    for path in sorted(features.iterdir()):
        # A file with a feature suffix counts even if its content is invalid: a failed file must be reported.
        if path.name.startswith(".") or not (path.suffix.lower() in SUFFIXES or is_feature_file(path)):
            continue
        if not is_utf8(path.name):
            raise DataError("its name is not UTF-8", where=path, remedy="Rename it")
        if path.stem in files:
            raise DataError(f"the slide '{path.stem}' has two feature files", where=path, remedy="Keep one of them")
        files[path.stem] = path
    if not files:
        raise DataError("holds no feature file", where=features, remedy="Give a folder of .h5 or .pt files")
    return files


def _slides(labels: Path | None, files: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    if labels is None:
        return {slide: (slide,) for slide in files}
    columns = Columns()
    table = read_table(labels, LabelError)
    table.require([columns.patient, str(columns.slide)], "Name each patient's slides, one row a slide")
    slides: dict[str, tuple[str, ...]] = {}
    first_line: dict[str, int] = {}
    for line, row in table.rows:
        patient, slide, where = row[columns.patient], row[str(columns.slide)], f"{labels}:{line}"
        if not patient:
            raise LabelError(f"'{columns.patient}' is empty", where=where, remedy="Write the ID or remove the row")
        if slide not in files:
            raise LabelError(f"the slide '{slide}' has no feature file", where=where, remedy="Add it or remove the row")
        if slide in first_line:
            what = f"the slide '{slide}' is already in line {first_line[slide]}"
            raise LabelError(what, where=where, remedy="Remove one of the two rows")
        first_line[slide] = line
        slides[patient] = (*slides.get(patient, ()), slide)
    return slides


def _outcomes(labels: Path | None) -> dict[str, Patient] | None:
    """Each patient's outcome; None if the labels do not have its columns."""
    columns = DataSettings().columns
    if labels is None or not {columns.time, columns.event} <= set(read_table(labels, LabelError).columns):
        return None
    patients, problems = read_labels(labels, DataSettings())
    refuse_errors(problems, labels)
    return {patient.id: patient for patient in patients}


def _judged(views: Sequence[PatientView], outcomes: Mapping[str, Patient] | None) -> Prediction:
    if outcomes is None:
        return Prediction(len(views), None, 0, tuple(views))
    known = [outcomes[view.id] for view in views]
    risk, t, e = np.array([(view.risk, one.t, one.e) for view, one in zip(views, known, strict=True)]).T
    found = pairs(risk, t, e)
    return Prediction(len(views), found.c_index, found.n_comparable, tuple(views))
