"""Looks at a folder as people have it, and writes a site file for it: ``fedsteph data init``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from fedsteph.client.data.discovery import discover
from fedsteph.client.data.formats import SUFFIXES, read_header
from fedsteph.client.data.settings import Columns, DataSettings, TimeUnit
from fedsteph.client.data.tables.known_tables import cancer_of
from fedsteph.client.data.tables.proposed_columns import Outcome, outcomes, patient_column, slide_column
from fedsteph.client.data.tables.split_files import split_files, split_like
from fedsteph.client.data.tables.table import Table, read_table
from fedsteph.client.site.site_file import SITE_FILE
from fedsteph.common.config.core_yaml import StrictDumper
from fedsteph.common.errors import ConfigError, DataError, FeatureFileError, LabelError

T = TypeVar("T")
Ask = Callable[[str, Sequence[Any], str], Any]  # question, choices, the option that answers it -> the choice
_TABLES = {".csv", ".tsv", ".txt"}
_DEPTH = 4  # folders below the site's folder that are looked into


@dataclass(frozen=True)
class Given:
    """What the user has said already; None: found out, or asked for."""

    features: Path | None = None
    labels: Path | None = None
    time: str | None = None
    time_unit: TimeUnit | None = None


@dataclass(frozen=True)
class Proposed:
    """The ``data`` section of a site file, and what was seen for each of its keys."""

    settings: DataSettings
    n_files: int
    n_rows: int
    longest: str  # time in the table
    matched: tuple[str, ...] = ()  # what the rules of data.match do
    cancer: str | None = None  # of a column "project" with one value

    def text(self) -> str:
        """The site file, with a comment on each line."""
        data, columns = self.settings, self.settings.columns
        outcome = ("event", columns.event, "1 = event, 0 = censored")
        if columns.censorship is not None:
            outcome = ("censorship", columns.censorship, "1 = censored, 0 = event")
        slides = "names of the feature files" if columns.slide else "the files' names begin with the patients' IDs"
        lines = [
            ("  features", data.features, f"{self.n_files} files"),
            ("  labels", data.labels, f"{self.n_rows} rows"),
            ("  time_unit", data.time_unit, f"the longest time in the table is {self.longest}"),
            *([("  splits", data.splits, "one file per fold")] if data.splits else []),
            *([("  match", [*data.match], "; ".join(self.matched))] if data.match else []),
            ("  columns", None, "names in the table"),
            ("    patient", columns.patient, ""),
            ("    slide", columns.slide, slides),
            ("    time", columns.time, ""),
            (f"    {outcome[0]}", outcome[1], outcome[2]),
        ]
        told = "# Written by 'fedsteph data init': look it through. All keys: docs/configuration.md"
        cancer = [] if self.cancer is None else [_line("cancer", self.cancer, "the one value of the column 'project'")]
        return "\n".join([told, *cancer, "data:", *(_line(*line) for line in lines), ""])


def propose(folder: Path, given: Given, ask: Ask) -> Proposed:
    """Look for features, a table and splits in a folder, and for the table's columns; ask what cannot be known.

    Raises:
        ConfigError: there is no such folder, or a site file is there already.
        DataError: no features or no table with patients and outcomes were found.
    """
    if not folder.is_dir():
        raise ConfigError("there is no such folder", where=folder, remedy="Give the folder of features and a table")
    if (folder / SITE_FILE).exists():
        remedy = "Change it by hand, or move it away; 'fedsteph data check' says what is wrong with it"
        raise ConfigError("is there already", where=folder / SITE_FILE, remedy=remedy)
    features = given.features or _features(folder, ask)
    files = sorted(path.stem for path in features.iterdir() if path.suffix.lower() in SUFFIXES)
    table = read_table(given.labels, LabelError) if given.labels else _table(folder, ask)
    patient = patient_column(table.columns)
    outcome = _outcome(table, given.time, ask)
    if patient is None or outcome is None:
        raise _no_columns(table, patient)
    unit = given.time_unit or outcome.unit
    times = [row[outcome.time] for _, row in table.rows]
    longest = max(times, key=lambda text: (_number(text), text))
    if unit is None:
        unit = ask(f"{table.path.name}: unit of '{outcome.time}' (up to {longest})", get_args(TimeUnit), "--time-unit")
    slide = slide_column(table, patient, files)
    end = {"censorship": outcome.column} if outcome.censorship else {"event": outcome.column}
    columns = Columns(patient=patient, slide=slide, time=outcome.time, **end)
    settings = DataSettings(
        features=_inside(folder, features),
        labels=_inside(folder, table.path),
        columns=columns,
        splits=_splits(folder),
        time_unit=unit,
    )
    cancer = cancer_of(row.get("project", "") for _, row in table.rows)
    return _matched(folder, Proposed(settings, len(files), len(table.rows), longest, cancer=cancer))


def _matched(folder: Path, found: Proposed) -> Proposed:
    """With the rules under which names agree, where some are needed."""
    problems = [problem for problem in discover(folder, found.settings).problems if problem.match]
    rules = tuple(dict.fromkeys(rule for problem in problems for rule in problem.match))
    if not rules:
        return found
    return replace(found, settings=replace(found.settings, match=rules), matched=tuple(p.what for p in problems))


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """The folder and those below it with their files' names; hidden ones left out."""
    for place, below, names in os.walk(folder):
        deep = len(Path(place).relative_to(folder).parts)
        below[:] = sorted(name for name in below if deep < _DEPTH and not name.startswith("."))
        yield Path(place), sorted(name for name in names if not name.startswith("."))


def _features(folder: Path, ask: Ask) -> Path:
    """The folder whose files hold features; of CLAM's two, the one whose files hold coords too."""
    found: dict[Path, set[str]] = {}
    for place, names in _folders(folder):
        files = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
        if files and _readable(place / files[0]):
            found[place] = {Path(name).stem for name in files}
    twice = [p for p, slides in found.items() if p.name == "pt_files" and found.get(p.with_name("h5_files")) == slides]
    if not found:
        remedy = "Give the folder with --features; 'fedsteph data check' says what is wrong with a file"
        raise DataError("no folder of feature files was found there", where=folder, remedy=remedy)
    return _one(
        [place for place in found if place not in twice], f"{folder}: which folder of features", ask, "--features"
    )


def _readable(path: Path) -> bool:
    try:
        read_header(path)
    except FeatureFileError:
        return False
    return True


def _table(folder: Path, ask: Ask) -> Table:
    """The table with patients and outcomes."""
    passed_over, found = {*split_like(folder), *split_files(folder)[0]}, list[Table]()
    others = []
    for place, names in _folders(folder):
        for path in (place / name for name in names):
            if path.suffix.lower() in _TABLES and path not in passed_over:
                others.append(path.name)
                try:
                    table = read_table(path, LabelError)
                except LabelError:
                    continue
                if outcomes(table.columns) and patient_column(table.columns):
                    found.append(table)
            elif path.suffix.lower() in (".xlsx", ".xls", ".ods"):
                others.append(path.name)
    if not found:
        seen = f"; it is none of {', '.join(others[:3])}" if others else ""
        remedy = "Save it there as CSV, with a row of column names, or give it with --labels"
        raise DataError(f"no table of patients, times and outcomes was found there{seen}", where=folder, remedy=remedy)
    by_path = {table.path: table for table in found}
    return by_path[_one([*by_path], f"{folder}: which table of labels", ask, "--labels")]


def _outcome(table: Table, time: str | None, ask: Ask) -> Outcome | None:
    found = [one for one in outcomes(table.columns) if time in (None, one.time)]
    return _one(found, f"{table.path.name}: which time and outcome", ask, "--time") if found else None


def _no_columns(table: Table, patient: str | None) -> DataError:
    what = "times and outcomes" if patient else "the patients' IDs"
    listed = ", ".join(map(repr, table.columns))
    remedy = "Rename them, or name them by hand under 'data.columns' in site.yaml: see docs/configuration.md"
    return DataError(
        f"has no columns for {what} that are known by name; it has {listed}", where=table.path, remedy=remedy
    )


def _one(found: Sequence[T], question: str, ask: Ask, option: str) -> T:
    chosen: T = found[0] if len(found) == 1 else ask(question, found, option)
    return chosen


def _splits(folder: Path) -> str | None:
    """The folder of splits that are not where they are looked for; None if there are none, or several folders."""
    places = {path.parent for path in split_like(folder)}
    if split_files(folder)[0] or len(places) != 1:
        return None
    return _inside(folder, places.pop())


def _inside(folder: Path, path: Path) -> str:
    """The path as a site file names it."""
    inner, outer = path.resolve(), folder.resolve()
    return inner.relative_to(outer).as_posix() if inner.is_relative_to(outer) else str(inner)


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return -1.0


def _line(key: str, value: Any, comment: str) -> str:
    if key.strip() != "columns":
        written = yaml.dump([value], Dumper=StrictDumper, default_flow_style=True, width=10_000, allow_unicode=True)
        key = f"{key}: {written.strip()[1:-1]}"
    else:
        key = f"{key}:"
    return f"{key}  # {' '.join(comment.split())}" if comment else key
