"""Reads the label table: one row per slide, one survival label per patient (days; event = 1, censored = 0)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.client.data.tables.known_tables import known_layouts
from fedsteph.client.data.tables.table import Table, read_table
from fedsteph.common.errors import LabelError

CENSORSHIP = "censorship"
_MAX_YEARS = 150
_EVENTS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
# As portals write the status. cBioPortal puts the number before it: "1:DECEASED", "0:ALIVE OR DEAD TUMOR FREE".
_STATUS = {"dead": 1, "deceased": 1, "alive": 0, "living": 0}
_NUMBERED = re.compile(r"([01]):.*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE | re.ASCII)
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_MISSING = frozenset({"nan", "na", "n/a", "null", "none", "#n/a"})
# Doubtful longest follow-ups. A cohort's is seldom below 200 days or 20 months, and no cohort is followed for 50 years.
_SHORT_DAYS, _SHORT_MONTHS, _LONG_DAYS = 200, 20, 50 * 365
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
    return found, [*problems, *_doubt_the_ids(path, table, settings), *_doubt_the_unit(path, settings, found)]


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
    needed = _needed(columns)
    table.require(needed.values(), _remedy(table, needed))
    return _with_points(table, columns.time), replace(settings, columns=columns)


def _needed(columns: Columns) -> dict[str, str]:
    """The columns that a table must have, by their keys in ``data.columns``."""
    outcome = "event" if columns.censorship is None else "censorship"
    return {key: getattr(columns, key) for key in ("patient", "slide", "time", outcome)}


def _remedy(table: Table, needed: Mapping[str, str]) -> str:
    """What to write into site.yaml; ready, if the columns are a known portal's, or ours in other letter case."""
    known = [str(layout) for layout in known_layouts(table.columns)]
    folded = {name.casefold(): name for name in table.columns}
    called = {key: folded.get(name.casefold()) for key, name in needed.items()}
    if None not in called.values():
        known = [f"data: {{columns: {{{', '.join(f'{key}: {name}' for key, name in called.items())}}}}}"]
    if known:
        return f"Write into site.yaml: {' or: '.join(known)}"
    return "Name the columns of this table under 'data.columns' in site.yaml"


def _with_points(table: Table, column: str) -> Table:
    """The table with decimal points in the column of times, if it has decimal commas alone.

    Raises:
        LabelError: all commas stand before three digits, which may be either.
    """
    cells = [row[column] for _, row in table.rows if "," in row[column]]
    if not cells or any("." in row[column] for _, row in table.rows):
        return table
    if all(_THOUSANDS.fullmatch(cell) for cell in cells):
        what = f"'{column}' has the value {cells[0]!r}, whose comma may be for decimals or for thousands"
        raise LabelError(what, where=table.path, remedy="Save the table with decimal points")
    rows = tuple((line, row | {column: row[column].replace(",", ".")}) for line, row in table.rows)
    return replace(table, rows=rows)


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
    # Python would also read 1_298, which is more likely a slip.
    days = float(text) * settings.days_per_unit if _NUMBER.fullmatch(text) else math.nan
    if math.isnan(days):
        what = f"{text!r}, not a number"
        remedy = "Write the follow-up time with a decimal point and no sign for thousands, or remove the row"
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
    numbered = _NUMBERED.fullmatch(row[column])
    status = int(numbered[1]) if numbered else _STATUS.get(row[column].lower())
    e = _flag(row, column, "1 = event, 0 = censored", where) if status is None else status
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
        remedy = f"Write {meaning}"
        if row[column] == "2":
            remedy += ". If 1 stands for censored and 2 for an event here, subtract 1 everywhere"
        raise LabelError(f"'{column}' is {row[column]!r}, not 0 or 1", where=where, remedy=remedy)
    return value


def _doubt_the_ids(path: Path, table: Table, settings: DataSettings) -> Iterator[Problem]:
    """Several rows whose patient is called as a missing value is: they would be one patient."""
    column = settings.columns.patient
    lines = [line for line, row in table.rows if row[column].lower() in _MISSING]
    if len(lines) > 1:
        what = f"{len(lines)} rows have the patient '{dict(table.rows)[lines[0]][column]}': is the ID missing there?"
        yield Problem("warning", f"{path}:{lines[0]}", what, "Write the patients' IDs, or remove these rows")


def _doubt_the_unit(path: Path, settings: DataSettings, patients: list[Patient]) -> Iterator[Problem]:
    longest = max((patient.t for patient in patients), default=0)
    unit = settings.time_unit
    amount = longest / settings.days_per_unit
    if longest > _LONG_DAYS and unit != "days":
        doubt = "days" if unit == "months" else "days or months"
    elif len(patients) < _ENOUGH_PATIENTS:
        return
    elif longest < _SHORT_DAYS:
        doubt = "months" if unit == "days" else "years"
    elif unit == "months" and amount < _SHORT_MONTHS:
        doubt = "years"
    else:
        return
    what = f"the longest follow-up is {amount:g} {unit}: are these {doubt}?"
    yield Problem("warning", str(path), what, "If so, set 'data.time_unit' in site.yaml; it is now " + unit)
