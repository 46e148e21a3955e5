"""Reads a CSV table with all cells as text, so that IDs such as ``007`` or ``NA`` stay unchanged."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from fedsteph.common.errors import DataError


@dataclass(frozen=True)
class Table:
    """Named columns and numbered rows; cells are stripped, blank rows and unnamed columns removed."""

    path: Path
    error: type[DataError]  # of errors about this table
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]  # line number in the file, from 1; cell per column

    def require(self, names: Iterable[str], remedy: str) -> None:
        """Raise ``error`` if a column of ``names`` is missing; the message lists the columns found."""
        missing = [name for name in names if name not in self.columns]
        if not missing:
            return
        for separator, spoken in ((";", "semicolons"), ("\t", "tabs")):
            if separator in self.columns[0]:
                remedy = f"It seems to be separated by {spoken}: save it with commas"
        what = f"has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, self.columns))}"
        raise self.error(what, where=self.path, remedy=remedy)


def read_table(path: Path, error: type[DataError]) -> Table:
    """Read a comma-separated UTF-8 file (with or without a byte order mark) whose first row names the columns.

    Raises:
        error: the file cannot be read or is not CSV, has no row, has two columns of the same name, or has a row with
            more cells than columns.
    """
    records = _records(path, error)
    if len(records) < 2:
        raise error("has no rows", where=path, remedy="Write a row of column names and one row per entry")
    (_, names), *rows = records
    columns = tuple(filter(None, names))
    if twice := sorted(name for name, times in Counter(columns).items() if times > 1):
        raise error(f"has the column '{twice[0]}' more than once", where=path, remedy="Rename or remove one")
    for line, cells in rows:
        if any(cells[len(names) :]):
            what = f"has {len(cells)} cells and {len(names)} columns"
            raise error(what, where=f"{path}:{line}", remedy="Put quotes round a cell that holds a comma")
    # Spreadsheets omit the commas of blank cells at the end of a row: zip_longest fills them in.
    numbered = (
        (line, {name: cell for name, cell in zip_longest(names, cells, fillvalue="") if name}) for line, cells in rows
    )
    return Table(path, error, columns, tuple(numbered))


def _records(path: Path, error: type[DataError]) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of each row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, row) for cells in reader if any(row := [cell.strip() for cell in cells])]
    except OSError as cause:
        raise error(f"cannot be read ({cause.strerror})", where=path, remedy="Put a readable CSV file there") from cause
    except UnicodeDecodeError as cause:
        raise error("is not UTF-8 text", where=path, remedy="Save it as 'CSV UTF-8'") from cause
    except csv.Error as cause:
        what = f"is not CSV at line {reader.line_num} ({cause})"
        raise error(what, where=path, remedy="Mend the quotes there") from cause
