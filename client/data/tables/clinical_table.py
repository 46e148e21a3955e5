"""Reads clinical values beside the outcomes: per patient and column a number, a level of an order, or a category."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import DataSettings, Kind
from fedsteph.client.data.tables.cells import NUMBER, is_missing
from fedsteph.client.data.tables.labels import Patient, with_points
from fedsteph.client.data.tables.table import read_table
from fedsteph.common.errors import LabelError

Value = float | str | None  # a number, the place of a level in its order, or a category; None: missing


@dataclass(frozen=True, repr=False)  # a text of it would tell patients' values
class ClinicalValues:
    """Clinical values of patients; neither they nor counts of them leave the site."""

    kinds: Mapping[str, Kind]  # by column
    rows: Mapping[str, tuple[Value, ...]]  # patient's ID -> a value per column

    def of(self, patients: Iterable[str]) -> ClinicalValues:
        """Those of these patients, in this order; of a patient who is not in the table, every value is missing."""
        nothing = (None,) * len(self.kinds)
        return ClinicalValues(self.kinds, {patient: self.rows.get(patient, nothing) for patient in patients})

    def measured(self, column: str) -> np.ndarray:
        """A numeric or ordinal column, ``(n_patients,)`` float64; NaN is missing."""
        found = [math.nan if value is None else float(value) for value in self._cells(column)]
        return np.array(found, dtype=np.float64)

    def categories(self, column: str) -> np.ndarray:
        """A column of categories, ``(n_patients,)`` of texts; empty is missing."""
        return np.array([value or "" for value in self._cells(column)], dtype=np.str_)

    def _cells(self, column: str) -> list[Any]:
        place = list(self.kinds).index(column)
        return [row[place] for row in self.rows.values()]


def read_clinical(
    path: Path, kinds: Mapping[str, Kind], patient: str, patients: Sequence[str], problems: list[Problem]
) -> ClinicalValues:
    """Read the clinical columns of a table with one or more rows per patient.

    A cell that is empty, or that is written as a missing value is (cells.py), is missing. Where a patient has several
    rows, a missing cell is filled from the others.

    Args:
        patient: the column of the patients' IDs.
        patients: the IDs to read; other rows are passed over.
        problems: gets an error for each cell that cannot be read, and for each patient with two values of one column.

    Raises:
        LabelError: the file is no table, or has no such column.
    """
    table = read_table(path, LabelError)
    table.require([patient, *kinds], "Mend the names under 'data.clinical' in site.yaml, or add these columns")
    for column in (column for column, kind in kinds.items() if kind == "numeric"):
        table = with_points(table, column)
    wanted = {*patients}
    found: dict[str, dict[str, tuple[Value, int]]] = {}
    for line, row in table.rows:
        if row[patient] not in wanted:
            continue
        known = found.setdefault(row[patient], {})
        for column, kind in kinds.items():
            try:
                value = _read(row[column], column, kind)
                if value is not None and known.setdefault(column, (value, line))[0] != value:
                    what = f"the patient '{row[patient]}' has another '{column}' than in line {known[column][1]}"
                    raise LabelError(what, remedy="Give all rows of a patient the same value, or leave it empty")
            except LabelError as error:
                problems.append(Problem("error", f"{path}:{line}", error.what, error.remedy or ""))
    nothing: tuple[Value, int] = (None, 0)
    rows = {key: tuple(known.get(column, nothing)[0] for column in kinds) for key, known in found.items()}
    return ClinicalValues(kinds, rows)


def clinical_of(
    path: Path, settings: DataSettings, patients: Iterable[Patient], problems: list[Problem]
) -> ClinicalValues | None:
    """The values of a site's patients in its own table, as :func:`read_clinical`; None if it names no such columns."""
    if not settings.clinical:
        return None
    ids = [patient.id for patient in patients]
    return read_clinical(path, settings.clinical, settings.columns.patient, ids, problems)


def _read(text: str, column: str, kind: Kind) -> Value:
    """The value in a cell; a level that is called as a missing value is, such as ``none``, is a level."""
    if isinstance(kind, tuple) and text in kind:
        return float(kind.index(text))
    if is_missing(text):
        return None
    if kind == "category":
        return text
    if isinstance(kind, tuple):
        what = f"'{column}' is {text!r}, not one of {', '.join(kind)}"
        remedy = f"Mend the cell, leave it empty if the value is not known, or mend data.clinical.{column} in site.yaml"
        raise LabelError(what, remedy=remedy)
    if not NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        what, remedy = f"'{column}' is {text!r}, not a number", "Write a number, or leave it empty if it is not known"
        raise LabelError(what, remedy=f"{remedy}; if it is no number, set data.clinical.{column} to category or a list")
    return float(text)
