"""Predicts a site's patients, read as its site file says, or the patients of a folder of feature files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedsteph.client.clinical.clinical_file import clinical_path
from fedsteph.client.data.problems import Problem
from fedsteph.client.models.context.cohort_survival import CohortSurvival
from fedsteph.client.models.context.quality import Quality
from fedsteph.client.models.final_file import Members
from fedsteph.client.models.members import followed_by_all, load_members
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.new_patients import NewPatients
from fedsteph.client.models.predict import PatientView, refuse_overwriting, table_of, unlike_slides, views_of
from fedsteph.client.site.clinical_prediction import with_clinical
from fedsteph.client.site.patients import patients_of
from fedsteph.client.site.site import Site
from fedsteph.common.host import atomic
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.concordance import pairs
from fedsteph.common.report.csv_text import csv_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Result of a prediction; where ``c_index`` is None, ``why_no_c_index`` says why."""

    views: tuple[PatientView, ...]
    n_models: int
    followed_years: int | None  # by all models' training patients; None: a file does not state it
    c_index: float | None
    n_comparable: int
    why_no_c_index: str | None
    warnings: tuple[Problem, ...]
    files: Mapping[str, Path]  # feature file per slide
    cohort: CohortSurvival | None = None  # of a final model's training patients, if its file has it
    quality: Quality | None = None  # of a final model, likewise

    @property
    def n_patients(self) -> int:
        return len(self.views)


def predict(
    model: LoadedModel | Path | str,
    features: Path | str | None = None,
    labels: Path | str | None = None,
    report: Progress = silent,
    *,
    site: Site | Path | str | None = None,
    clinical: Path | str | None = None,
) -> pd.DataFrame:
    """Predict risk and yearly survival of every patient. What is doubtful is logged as a warning.

    Args:
        model: a model file, local or enhanced; a folder of such files, as ``deployed``, whose models predict together;
            or the result of :func:`fedsteph.load_model`.
        features: a folder of feature files, ``(n_instances, d)`` each, or a site folder; with ``site``, instead of its
            ``data.features``.
        labels: table that names each patient's slides; None: that of the site, or, without a site, every file whose
            name ends as a feature file's is one patient. With ``site``, instead of its ``data.labels``.
        report: called with the number of patients done and the total.
        site: a site, or the path of its folder or site file, whose columns, names and exclusions hold.
        clinical: table of the patients' clinical values, for a final model with a clinical model beside it; None: those
            of the site's own table, if its site file names clinical columns.

    Returns:
        one row per patient: ``patient_id``; ``risk`` (no unit, higher is worse); ``percentile`` (percent of the
        training patients with a lower risk), if the file has percentiles; ``risk_local``, the risk by the local model
        stored with an enhanced one, if any; ``survival_1y`` .. (probability of surviving so many years of 365 days), up
        to the longest follow-up of the training patients, or of all years if the file does not state it; and for each
        source of an enhanced model ``w_<source>`` (0 if it was not kept) and ``lam_<source>``.

        Several models: all these are means over them (``w`` of a model without the source counts as 0; ``lam`` is the
        mean over the models with it). ``risk_low`` and ``risk_high`` are the 2.5th and 97.5th percentile of the
        models' risks: how far the models disagree, and no confidence interval of an outcome.

        A final model: as several models, but ``percentile`` is that of the mean risk among the training patients' mean
        risks. ``unlike`` is how far the patient's slide lies from the training slides, in distances of the farthest of
        these (:class:`.SlideFeatures`; the largest of several slides); above 1.5, a warning says so.

        With clinical values: ``risk_clinical`` and ``risk_both`` (log hazards, without and with the slide's risk), and
        ``survival_both_1y`` ..; what happens to missing values is told in a warning.

    Raises:
        ModelFileError: ``model`` is no model file, or the models of a folder do not fit together; or clinical values
            are given and there is no clinical model beside it.
        ConfigError: the site or its site file cannot be used.
        DataError: neither ``site`` nor ``features`` is given; a feature file (for example, of another encoder) or the
            labels cannot be used; or a patient's risk or survival is not finite.
    """
    members, new = load_members(model), patients_of(site, features, labels)
    views, gaps = with_clinical(views_of(members, new, report), model, new, clinical)
    for problem in (*_doubts(members, model, new, views), *gaps):
        _log.warning("%s", problem.line)
    return table_of(views)


def predict_file(
    model: Path,
    features: Path | None,
    labels: Path | None,
    out: Path,
    report: Progress = silent,
    *,
    site: Path | None = None,
    page: Path | None = None,
    clinical: Path | None = None,
) -> Prediction:
    """Predict every patient as :func:`predict` does, and write the table as CSV; after an error nothing is written.

    Args:
        labels, clinical: as in :func:`predict`; if the labels have outcomes, the C-index is computed.
        page: what the caller writes afterwards; it may overwrite no input either, nor ``out``.

    Raises:
        ModelFileError, ConfigError, DataError: as :func:`predict`; or ``out`` or ``page`` cannot be used.
    """
    members, new = load_members(model), patients_of(site, features, labels)
    inputs = (model, clinical_path(model), clinical, *new.inputs)
    refuse_overwriting(out, inputs)
    if page is not None:
        refuse_overwriting(page, (out, *inputs))
    views, gaps = with_clinical(views_of(members, new, report), model, new, clinical)
    table = table_of(views)
    atomic.write_text(out, csv_text([[*table], *table.itertuples(index=False)], 9))
    c_index, n_comparable, why = _judged(views, new)
    years, warnings = followed_by_all(members.models), (*_doubts(members, model, new, views), *gaps)
    told = new.files, members.cohort, members.quality
    return Prediction(tuple(views), len(members.models), years, c_index, n_comparable, why, warnings, *told)


def _doubts(members: Members, model: object, new: NewPatients, views: Sequence[PatientView]) -> tuple[Problem, ...]:
    """Warnings: of the data, of years that no follow-up supports, and of slides unlike the training slides."""
    unlike = unlike_slides(views)
    found = (*new.warnings, *unstated_follow_up(members.models, model))
    return (*found, *([] if unlike is None else [unlike]))


def unstated_follow_up(members: Sequence[LoadedModel], model: object) -> tuple[Problem, ...]:
    """A warning where the years to give for a model, or for models that predict together, are not known."""
    if followed_by_all(members) is not None:
        return ()
    what = f"does not state how long its training patients were followed, so all {members[0].architecture.n_bins} years"
    remedy = "A model that is made again states it"
    where = "the model" if isinstance(model, LoadedModel) else str(model)
    return (Problem("warning", where, f"{what} are given, and late ones are extrapolated", remedy),)


def _judged(views: Sequence[PatientView], new: NewPatients) -> tuple[float | None, int, str | None]:
    """The C-index, the number of comparable pairs, and why there is no C-index."""
    if new.without_outcomes is not None:
        return None, 0, new.without_outcomes
    found = pairs(*np.array([(view.risk, one.t, one.e) for view, one in zip(views, new.patients, strict=True)]).T)
    why = None
    if found.c_index is None:
        why = f"no two of {len(views)} patients can be compared: the one with the shorter time must have an event"
    return found.c_index, found.n_comparable, why
