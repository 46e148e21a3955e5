"""Reads the label table: one row per slide, one survival label per patient (days; event = 1, censored = 0)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.client.data.tables.cells import CENSORSHIP, MISSING, read_days, read_event, read_id
from fedsteph.client.data.tables.known_tables import known_layouts
from fedsteph.client.data.tables.slides_by_name import FILE, doubtful, owners, with_slides
from fedsteph.client.data.tables.table import Table, read_table
from fedsteph.common.errors import LabelError

_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
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


def read_labels(
    path: Path, settings: DataSettings, files: Collection[str] = (), *, outcomes: bool = True
) -> tuple[list[Patient], list[Problem]]:
    """Read the label table: the patients of the rows that could be read, sorted by ID, and all problems of all rows.

    Args:
        files: names of the feature files without their endings; needed where no column names the slides.
        outcomes: False for patients whose outcome is not known: only IDs are read, and every ``t`` and ``e`` is 0.

    Raises:
        LabelError: the file cannot be read as a table with the columns that ``settings`` names.
    """
    table, settings, problems = _open(path, settings, files, outcomes)
    patients: dict[str, Patient] = {}
    first_line: dict[str, int] = {}
    slide_line: dict[str, int] = {}
    for line, row in table.rows:
        if row.get(FILE) == "":
            continue
        where = f"{path}:{line}"
        key, slide, t, e = _read_row(row, settings, where, problems, outcomes)
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
    doubts = [*_doubt_the_ids(path, table, settings), *(_doubt_the_unit(path, settings, found) if outcomes else ())]
    return found, [*problems, *doubts]


def absent_outcomes(path: Path, settings: DataSettings) -> list[str]:
    """The columns of the outcome that the table lacks, in quotes; LabelError if the file is no table."""
    table = read_table(path, LabelError)
    columns = _with_censorship(table, settings.columns)
    event = f"'{columns.event}' (or '{CENSORSHIP}')" if columns.censorship is None else f"'{columns.censorship}'"
    spoken = {columns.time: f"'{columns.time}'", columns.censorship or columns.event: event}
    return [text for name, text in spoken.items() if name not in table.columns]


def listed_ids(path: Path, settings: DataSettings, files: Collection[str] = ()) -> tuple[set[str], set[str]]:
    """All patient IDs and all slide IDs in the table, including rows with problems.

    Raises:
        LabelError: the file cannot be read as a table with the columns of the IDs.
    """
    table, settings, _ = _open(path, settings, files, outcomes=False)
    columns = settings.columns
    patients, slides = ({row[str(name)] for _, row in table.rows} for name in (columns.patient, columns.slide))
    return patients - {""}, slides - {""}


def _open(
    path: Path, settings: DataSettings, files: Collection[str], outcomes: bool
) -> tuple[Table, DataSettings, list[Problem]]:
    """Read the table, and decide in the settings which columns hold the outcome and the slides; with what is doubtful.

    Where no column names the slides, the files' names do.
    """
    table = read_table(path, LabelError)
    columns, doubts = _with_censorship(table, settings.columns), list[Problem]()
    needed = _needed(columns, outcomes)
    table.require(needed.values(), _remedy(table, needed))
    if columns.slide is None:
        of_file = owners({row[columns.patient] for _, row in table.rows}, files, settings.match)
        table = with_slides(table, columns.patient, of_file)
        doubts += doubtful(table, columns.patient, of_file)
        columns = replace(columns, slide=FILE)
    return with_points(table, columns.time) if outcomes else table, replace(settings, columns=columns), doubts


def _with_censorship(table: Table, columns: Columns) -> Columns:
    """Without an event column, a column called ``censorship`` (1 = censored) is used: its name is unambiguous."""
    if columns.censorship is None and columns.event not in table.columns and CENSORSHIP in table.columns:
        return replace(columns, censorship=CENSORSHIP)
    return columns


def _needed(columns: Columns, outcomes: bool) -> dict[str, str]:
    """The columns that a table must have, by their keys in ``data.columns``."""
    outcome = ("time", "event" if columns.censorship is None else "censorship") if outcomes else ()
    return {key: name for key in ("patient", "slide", *outcome) if (name := getattr(columns, key)) is not None}


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


def with_points(table: Table, column: str) -> Table:
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


def _read_row(
    row: dict[str, str], settings: DataSettings, where: str, problems: list[Problem], outcomes: bool
) -> list[Any]:
    """Patient, slide, days and event of a row; None, and a new problem, for each that cannot be read."""
    columns, values = settings.columns, list[Any]()
    ids = (read_id, columns.patient), (read_id, str(columns.slide))
    parsers = (*ids, (read_days, columns.time), (read_event, columns.event))
    for parse, column in parsers[: 4 if outcomes else 2]:
        try:
            values.append(parse(row, column, settings, where))
        except LabelError as error:
            problems.append(Problem.of(error))
            values.append(None)
    return values if outcomes else [*values, 0.0, 0]


def _doubt_the_ids(path: Path, table: Table, settings: DataSettings) -> Iterator[Problem]:
    """Several rows whose patient is called as a missing value is: they would be one patient."""
    column = settings.columns.patient
    lines = [line for line, row in table.rows if row[column].casefold() in MISSING - {""}]
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
