"""Reads the label table: one row per slide, one survival label per patient (days; event = 1, censored = 0)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.table import Table, read_table
from fedsteph.common.errors import LabelError

CENSORSHIP = "censorship"
_MAX_YEARS = 150
_EVENTS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
# The longest follow-up of a cohort is seldom below 200 days; such numbers are often months or years.
_SHORT_DAYS = 200
_ENOUGH_PATIENTS = 10


@dataclass(frozen=True)
class Patient:
    """A patient's survival label and slides."""

    id: str
    t: float  # days from diagnosis to the event or to the end of follow-up
    e: int  # 1 = the event was observed at t, 0 = censored at t
    slides: tuple[str, ...]  # slide IDs in table order; all slides together form one bag
    project: str = ""


def read_labels(path: Path, settings: DataSettings) -> tuple[list[Patient], list[Problem]]:
    """Read the label table: the patients of the rows that could be read, sorted by ID, and all problems of all rows.

    Raises:
        LabelError: the file cannot be read as a table with the columns that ``settings`` names.
    """
    table, settings = _open(path, settings)
    problems: list[Problem] = []
    patients: dict[str, Patient] = {}
    first_line: dict[str, int] = {}
    slide_line: dict[str, int] = {}
    for line, row in table.rows:
        where = f"{path}:{line}"
        key, slide, t, e = _read_row(row, settings, where, problems)
        if slide is not None and slide_line.setdefault(slide, line) != line:
            what = f"the slide '{slide}' is already in line {slide_line[slide]}"
            problems.append(Problem("error", where, what, "Remove one of the two rows"))
            continue
        if None in (key, slide, t, e):
            continue
        known = patients.get(key, Patient(key, t, e, (), row.get(settings.columns.project, "")))
        if (known.t, known.e) != (t, e):
            what = f"the patient '{key}' has another time or event than in line {first_line[key]}"
            problems.append(Problem("error", where, what, "Give all rows of a patient the same label"))
        first_line.setdefault(key, line)
        patients[key] = replace(known, slides=(*known.slides, slide))
    found = [patients[key] for key in sorted(patients)]
    return found, problems + _doubt_the_unit(path, settings, found)


def listed_ids(path: Path, settings: DataSettings) -> tuple[set[str], set[str]]:
    """All patient IDs and all slide IDs in the table, including rows with problems; errors as :func:`read_labels`."""
    table, _ = _open(path, settings)
    columns = settings.columns
    patients, slides = ({row[name] for _, row in table.rows} for name in (columns.patient, columns.slide))
    return patients - {""}, slides - {""}


def _open(path: Path, settings: DataSettings) -> tuple[Table, DataSettings]:
    """Read the table, and decide in the settings which column holds the outcome.

    Without an event column, a column called ``censorship`` (1 = censored) is used: its name is unambiguous.
    """
    table, columns = read_table(path, LabelError), settings.columns
    if columns.censorship is None and columns.event not in table.columns and CENSORSHIP in table.columns:
        columns = replace(columns, censorship=CENSORSHIP)
    table.require(
        (columns.patient, columns.slide, columns.time, columns.censorship or columns.event),
        "Name the columns of this table under 'data.columns' in site.yaml",
    )
    return table, replace(settings, columns=columns)


def _read_row(row: dict[str, str], settings: DataSettings, where: str, problems: list[Problem]) -> list[Any]:
    """Patient, slide, days and event of a row; None, and a new problem, for each that cannot be read."""
    columns, values = settings.columns, list[Any]()
    parsers = (_id, columns.patient), (_id, columns.slide), (_days, columns.time), (_event, columns.event)
    for parse, column in parsers:
        try:
            values.append(parse(row, column, settings, where))
        except LabelError as error:
            problems.append(Problem.of(error))
            values.append(None)
    return values


def _id(row: dict[str, str], column: str, _: DataSettings, where: str) -> str:
    if not row[column]:
        raise LabelError(f"'{column}' is empty", where=where, remedy="Write the ID or remove the row")
    return row[column]


def _days(row: dict[str, str], column: str, settings: DataSettings, where: str) -> float:
    text = row[column]
    try:
        days = float(text) * settings.days_per_unit
    except ValueError:
        days = math.nan
    if math.isnan(days):
        what = f"{text!r}, not a number"
        remedy = "Write the follow-up time with a decimal point, or remove the row"
    elif days < 0:
        what, remedy = f"{text}, before the start of follow-up", "Write a time of 0 or more, or remove the row"
    elif days > _MAX_YEARS * 365:
        what = f"{text} {settings.time_unit}, more than {_MAX_YEARS} years"
        remedy = "Mend the time, or set 'data.time_unit' in site.yaml"
    else:
        return days
    raise LabelError(f"'{column}' is {what}", where=where, remedy=remedy)


def _event(row: dict[str, str], column: str, settings: DataSettings, where: str) -> int:
    if settings.columns.censorship is not None:
        return 1 - _flag(row, settings.columns.censorship, "1 = censored, 0 = event", where)
    e = _flag(row, column, "1 = event, 0 = censored", where)
    if CENSORSHIP in row and column != CENSORSHIP and e == _flag(row, CENSORSHIP, "1 = censored", where):
        raise LabelError(
            f"'{column}' and '{CENSORSHIP}' are both {e}, which contradict each other",
            where=where,
            remedy=f"'{column}' is 1 for an event, '{CENSORSHIP}' is 1 for a censored patient",
        )
    return e


def _flag(row: dict[str, str], column: str, meaning: str, where: str) -> int:
    value = _EVENTS.get(row[column].lower())
    if value is None:
        raise LabelError(f"'{column}' is {row[column]!r}, not 0 or 1", where=where, remedy=f"Write {meaning}")
    return value


def _doubt_the_unit(path: Path, settings: DataSettings, patients: list[Patient]) -> list[Problem]:
    longest = max((patient.t for patient in patients), default=0)
    if settings.time_unit != "days" or len(patients) < _ENOUGH_PATIENTS or longest >= _SHORT_DAYS:
        return []
    what = f"the longest follow-up is {longest:g} days: are these months?"
    return [Problem("warning", str(path), what, "If so, set 'data.time_unit: months' in site.yaml")]
