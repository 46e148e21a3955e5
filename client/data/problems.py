"""Collects the problems of a site's data, so that the user sees all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedsteph.common.errors import DataError, FedstephError

Severity = Literal["error", "warning"]
_MOST_ROWS = 20


@dataclass(frozen=True)
class Problem:
    """One problem: an ``error`` must be fixed before anything runs, a ``warning`` is only suspicious."""

    severity: Severity
    where: str  # the file, with its line number for a table
    what: str
    remedy: str

    @classmethod
    def of(cls, error: FedstephError, severity: Severity = "error") -> Problem:
        """The problem that a typed error describes."""
        return cls(severity, error.where or "", error.what, error.remedy or "")


def counted(problems: Sequence[Problem]) -> str:
    """The number of problems as text: ``1 problem``, ``2 problems``."""
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def refuse_errors(problems: Iterable[Problem], folder: Path) -> None:
    """Raise one error with a table of all errors; do nothing if there are only warnings.

    Args:
        folder: the site's folder; paths inside it are shown relative to it.

    Raises:
        DataError: at least one problem is an error.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    raise DataError(
        f"the data cannot be used, {counted(errors)} found",
        where=folder,
        remedy="Mend what the table above lists",
        details=_table(errors, folder),
    )


def _table(problems: list[Problem], folder: Path) -> str:
    rows = [("where", "what is wrong", "remedy")]
    rows += [(p.where.removeprefix(f"{folder}/"), p.what, p.remedy) for p in problems[:_MOST_ROWS]]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{where:<{widths[0]}}  {what:<{widths[1]}}  {remedy}".rstrip() for where, what, remedy in rows]
    if len(problems) > _MOST_ROWS:
        lines.append(f"and {len(problems) - _MOST_ROWS} more")
    return "\n".join(lines)
