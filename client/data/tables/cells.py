"""Reads single cells of a label table: an ID, a time as days, an outcome as an event, in the ways they are written."""

from __future__ import annotations

import math
import re

from fedsteph.client.data.settings import DataSettings
from fedsteph.common.errors import LabelError

CENSORSHIP = "censorship"
_MAX_YEARS = 150
_EVENTS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
# As portals write the status. cBioPortal puts the number before it: "1:DECEASED", "0:ALIVE OR DEAD TUMOR FREE".
_STATUS = {"dead": 1, "deceased": 1, "alive": 0, "living": 0}
_NUMBERED = re.compile(r"([01]):.*")
# As spreadsheets, pandas, GDC, cBioPortal and TCGA write a value that is not there.
MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "null", "none", "--", "'--", "unknown", "not reported"})
_MISSING_TCGA = re.compile(r"\[.*\]")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE | re.ASCII)


def read_id(row: dict[str, str], column: str, _: DataSettings, where: str) -> str:
    if not row[column]:
        raise LabelError(f"'{column}' is empty", where=where, remedy="Write the ID or remove the row")
    return row[column]


def read_days(row: dict[str, str], column: str, settings: DataSettings, where: str) -> float:
    text = row[column]
    # Python would also read 1_298, which is more likely a slip.
    days = float(text) * settings.days_per_unit if NUMBER.fullmatch(text) else math.nan
    if is_missing(text):
        what, remedy = f"{text!r}, a missing value", "Write the follow-up time, or remove the row"
    elif _DATE.fullmatch(text):
        what, remedy = f"{text!r}, a date", "Write how long the patient was followed, as a number of days or months"
    elif math.isnan(days):
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


def read_event(row: dict[str, str], column: str, settings: DataSettings, where: str) -> int:
    if settings.columns.censorship is not None:
        return 1 - _flag(row, settings.columns.censorship, "1 = censored, 0 = event", where)
    if is_missing(row[column]):
        what, remedy = (
            f"'{column}' is {row[column]!r}, a missing value",
            "Write 1 = event, 0 = censored, or remove the row",
        )
        raise LabelError(what, where=where, remedy=remedy)
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


def is_missing(text: str) -> bool:
    return text.casefold() in MISSING or _MISSING_TCGA.fullmatch(text) is not None


def _flag(row: dict[str, str], column: str, meaning: str, where: str) -> int:
    value = _EVENTS.get(row[column].lower())
    if value is None:
        remedy = f"Write {meaning}"
        if row[column] == "2":
            remedy += ". If 1 stands for censored and 2 for an event here, subtract 1 everywhere"
        raise LabelError(f"'{column}' is {row[column]!r}, not 0 or 1", where=where, remedy=remedy)
    return value
