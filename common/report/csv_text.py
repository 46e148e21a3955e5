"""Formats tables as CSV that a spreadsheet can open: no text in them is taken for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

# Spreadsheets run a cell that begins so. A text that looks escaped is escaped once more, so that none become the same.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)([eE][-+]?\d+)?|-")


def csv_text(lines: Iterable[Sequence[object]], digits: int | None = None) -> str:
    """A table as CSV, header first; None is an empty field. ``digits``: significant ones of floats; None: all."""

    def cell(value: object) -> object:
        if isinstance(value, float) and digits is not None:
            return f"{value:.{digits}g}"
        if not isinstance(value, str):
            return value
        # Python's writer puts no quotes round a carriage return, which readers take for the end of a line.
        return ("'" if _FORMULA.match(value) and not _NUMBER.fullmatch(value) else "") + value.replace("\r", "\n")

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in line] for line in lines)
    return text.getvalue()
