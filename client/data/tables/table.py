"""Reads a CSV table with all cells as text, so that IDs such as ``007`` or ``NA`` stay unchanged."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from fedsteph.common.errors import DataError

_SEPARATORS = ",;\t"
_STATED = re.compile(r'"?sep=([^\r\n"])"?[\r\n]*', re.IGNORECASE)  # Excel's own first line
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Table:
    """Named columns and numbered rows; cells are stripped, blank rows and unnamed columns removed."""

    path: Path
    error: type[DataError]  # of errors about this table
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]  # line number in the file, from 1; cell per column

    def require(self, names: Iterable[str], remedy: str) -> None:
        """Raise ``error`` if a column of ``names`` is missing; the message lists the columns found."""
        if missing := [name for name in names if name not in self.columns]:
            what = f"has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, self.columns))}"
            raise self.error(what, where=self.path, remedy=remedy)


def read_table(path: Path, error: type[DataError]) -> Table:
    """Read a table whose first row names the columns, as spreadsheets and portals write it.

    The text is UTF-8, or UTF-16 with a byte order mark. Cells are separated by commas, semicolons or tabs, whichever
    gives the first row the most cells, or by what a first line such as ``sep=;`` says. Lines that begin with ``#``
    before the column names are notes, as in cBioPortal's files.

    Raises:
        error: the file cannot be read or is no such table, has no row, has two columns of the same name, or has a row
            with more cells than columns.
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
            raise error(what, where=f"{path}:{line}", remedy="Put quotes round a cell that holds the separator")
    # Spreadsheets omit the separators of blank cells at the end of a row: zip_longest fills them in.
    numbered = (
        (line, {name: cell for name, cell in zip_longest(names, cells, fillvalue="") if name}) for line, cells in rows
    )
    return Table(path, error, columns, tuple(numbered))


def _records(path: Path, error: type[DataError]) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of each row that is not blank."""
    lines = list(io.StringIO(_text(path, error), newline=""))
    skipped, separator = 0, None
    for line in lines:
        if stated := _STATED.fullmatch(line):
            separator = stated[1]
        elif not line.startswith("#"):
            break
        skipped += 1
    separator = separator or _guess("".join(lines[skipped : skipped + 1]))
    reader = csv.reader(lines[skipped:], strict=True, delimiter=separator)
    try:
        return [(reader.line_num + skipped, row) for cells in reader if any(row := [cell.strip() for cell in cells])]
    except csv.Error as cause:
        what = f"is not CSV at line {reader.line_num + skipped} ({cause})"
        raise error(what, where=path, remedy="Mend the quotes there") from cause


def _guess(names: str) -> str:
    """The separator that gives the row of column names the most cells; a comma if none does."""
    try:
        return max(_SEPARATORS, key=lambda separator: len(next(csv.reader([names], delimiter=separator), [])))
    except csv.Error:  # reading the table then says what is wrong
        return ","


def _text(path: Path, error: type[DataError]) -> str:
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise error(f"cannot be read ({cause.strerror})", where=path, remedy="Put a readable CSV file there") from cause
    try:
        return content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error("is not UTF-8 text", where=path, remedy="Save it as 'CSV UTF-8'") from cause
