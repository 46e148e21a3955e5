"""Proposes which columns of a table hold patients, slides, times and outcomes, by their names and their values."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import get_args

from fedsteph.client.data.matching import same
from fedsteph.client.data.settings import Rule, TimeUnit
from fedsteph.client.data.tables.known_tables import known_layouts
from fedsteph.client.data.tables.table import Table

_ANY_SPELLING: tuple[Rule, ...] = get_args(Rule)
# Names of columns in small letters, without signs; the likelier come first.
_PATIENT = (
    *("patientid", "bcrpatientbarcode", "patientbarcode", "casesubmitterid", "caseid", "submitterid", "patient"),
    *("subjectid", "participantid", "case", "subject", "participant", "id"),
)
_TIME = re.compile(
    r"t|(os|dss|pfs|pfi|dfs|dfi|rfs)?_?(survival|follow_?up|fu|event|time_to_event|os|dss|pfs|pfi|dfs)?_?"
    r"(time|months?|days|years|duration)(_?(days|months|years))?",
    re.IGNORECASE,
)
_EVENT = re.compile(
    r"e|dead|death|deceased|fustat|vital_?status|"
    r"((os|dss|pfs|pfi|dfs|dfi|rfs|survival)_?)?(event|status)(_?observed)?",
    re.IGNORECASE,
)
_CENSORSHIP = re.compile(r"((os|dss|pfs|pfi|dfs|dfi|rfs)_?)?(censorship|censored|censoring|censor)", re.IGNORECASE)
_UNITS: dict[str, TimeUnit] = {"day": "days", "month": "months", "year": "years"}


@dataclass(frozen=True)
class Outcome:
    """A column of times and the column that says how they ended."""

    time: str
    column: str
    censorship: bool  # whether 1 in the column is a censored patient
    unit: TimeUnit | None  # None: neither the layout nor the column's name says it

    def __str__(self) -> str:
        return f"{self.time} with {self.column}"


def outcomes(columns: Sequence[str]) -> list[Outcome]:
    """Every column of times with every column of outcomes that may belong to it; a known layout's go first."""
    known = [Outcome(one.time, one.outcome, one.censorship, one.unit) for one in known_layouts(columns)]  # type: ignore[arg-type]
    if known:
        return [*dict.fromkeys(known)]
    times = [name for name in columns if _TIME.fullmatch(name)]
    ends = [(name, False) for name in columns if _EVENT.fullmatch(name)]
    # A column of events says the same as one of censorship beside it.
    ends = ends or [(name, True) for name in columns if _CENSORSHIP.fullmatch(name)]
    return [Outcome(time, end, censorship, unit_of(time)) for time in times for end, censorship in ends]


def unit_of(column: str) -> TimeUnit | None:
    """The unit that a column's name states."""
    return next((unit for word, unit in _UNITS.items() if word in column.casefold()), None)


def patient_column(columns: Sequence[str]) -> str | None:
    """The column of patients, by its name."""
    plain = {re.sub(r"[^a-z0-9]", "", name.casefold()): name for name in reversed(columns)}
    return next((plain[name] for name in _PATIENT if name in plain), None)


def slide_column(table: Table, patient: str, files: Collection[str]) -> str | None:
    """The column whose values are the most files' names, in any spelling; None if that is the patients', or none."""
    names = {same(file, _ANY_SPELLING) for file in files}

    def n_files(column: str) -> int:
        return len(names & {same(row[column], _ANY_SPELLING) for _, row in table.rows})

    best = max((column for column in table.columns if column != patient), key=n_files, default=None)
    return best if best is not None and n_files(best) > n_files(patient) else None
