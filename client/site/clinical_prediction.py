"""Predicts from patients' clinical values together with the final model's risk, by the clinical model beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsteph.client.clinical.clinical_file import clinical_path, read_clinical_model
from fedsteph.client.clinical.clinical_model import ClinicalModel, differing
from fedsteph.client.data.problems import Problem, refuse_errors
from fedsteph.client.data.tables.clinical_table import ClinicalValues, read_clinical
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.models.new_patients import NewPatients
from fedsteph.client.models.predict import ClinicalView, PatientView
from fedsteph.common.errors import DataError, ModelFileError

_KNOWN = "Give the values that are known"


def with_clinical(
    views: Sequence[PatientView], model: LoadedModel | Path | str, new: NewPatients, table: Path | str | None = None
) -> tuple[list[PatientView], list[Problem]]:
    """The predictions with those of the clinical model, and a warning for each kind of gap in the values.

    Without a clinical model, or without values, the predictions stay as they are.

    Args:
        new: the patients; their values are those of the site's own table, if its file names clinical columns.
        table: a table of values instead, with the columns of the clinical model.

    Raises:
        ModelFileError: ``table`` is given and there is no clinical model; or its file cannot be used.
        DataError: a value cannot be read, or the table has none of the patients.
    """
    found = None if isinstance(model, LoadedModel) else read_clinical_model(Path(model))
    if found is None:
        if table is None:
            return list(views), []
        what = "takes no clinical values: there is no clinical.json beside its file"
        remedy = (
            "Give the final model (deployed/model.safetensors) of a merge at a site with data.clinical in site.yaml"
        )
        raise ModelFileError(what, where="the model" if isinstance(model, LoadedModel) else str(model), remedy=remedy)
    if table is None and new.clinical is None:
        return list(views), []
    if table is None and new.clinical is not None and (differs := differing(found.kinds, new.clinical.kinds)):
        remedy = "Name the columns in site.yaml as the model's site did, or give a table of values with --clinical"
        what = f"nothing is predicted from clinical values: the column {differs}"
        return list(views), [Problem("warning", str(clinical_path(Path(str(model)))), what, remedy)]
    ids = [view.id for view in views]
    values = new.clinical if table is None else _in_table(Path(table), found, new.patient_column, ids)
    assert values is not None
    return _predicted(views, found, values.of(ids)), [*_gaps(found, values, ids, table)]


def _in_table(table: Path, found: ClinicalModel, column: str, ids: Sequence[str]) -> ClinicalValues:
    problems: list[Problem] = []
    values = read_clinical(table, found.kinds, column, ids, problems)
    refuse_errors(problems, table)
    if not values.rows:
        what = f"has none of the {len(ids)} patients in its column '{column}'; the first of them is '{ids[0]}'"
        raise DataError(what, where=table, remedy="Write the IDs as predict's CSV has them")
    return values


def _predicted(views: Sequence[PatientView], found: ClinicalModel, values: ClinicalValues) -> list[PatientView]:
    numbers, with_slide = found.numbers(values, np.array([view.risk for view in views]))
    columns = found.clinical.risk(numbers), found.both.risk(with_slide)
    years = found.clinical.survival(numbers), found.both.survival(with_slide)
    rows = zip(views, *columns, *years, strict=True)
    return [replace(view, clinical=ClinicalView(float(a), float(b), c, d)) for view, a, b, c, d in rows]


def _gaps(
    found: ClinicalModel, values: ClinicalValues, ids: Sequence[str], table: Path | str | None
) -> Iterator[Problem]:
    where, n = "clinical values" if table is None else str(table), len(ids)
    if absent := [patient for patient in ids if patient not in values.rows]:
        what = (
            f"{len(absent)} of {n} patients are not in the table (first: '{absent[0]}'): all their values are missing"
        )
        yield Problem("warning", where, what, "Add their rows, or use risk, which needs no clinical value, for them")
    usual = {one.column: f"the most frequent one, {one.usual}, is taken" for one in found.encoding.categories}
    for column, gaps in found.encoding.gaps(values.of(ids)).items():
        if gaps.missing:
            taken = usual.get(column, "the training patients' median is taken")
            yield Problem(
                "warning", where, f"'{column}' is missing for {gaps.missing} of {n} patients: {taken}", _KNOWN
            )
        if gaps.unseen:
            what = f"'{column}' is a category that no training patient had for {gaps.unseen} of {n} patients"
            yield Problem("warning", where, f"{what}: {usual[column]}", "Look whether it is written as in training")
