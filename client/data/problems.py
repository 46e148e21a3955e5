"""Collects the problems of a site's data, so that the user sees all of them at once, one line a kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedsteph.client.data.settings import Rule
from fedsteph.common.errors import DataError, FedstephError

Severity = Literal["error", "warning"]
_EXAMPLES = 3
_PARTICULARS = re.compile(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|\d[\d.,]*")


@dataclass(frozen=True)
class Problem:
    """One problem: an ``error`` must be fixed before anything runs, a ``warning`` is only suspicious."""

    severity: Severity
    where: str  # the file, with its line number for a table
    what: str
    remedy: str
    match: tuple[Rule, ...] = ()  # the rules of 'data.match' that mend it, if they hold for this site

    @classmethod
    def of(cls, error: FedstephError, severity: Severity = "error") -> Problem:
        """The problem that a typed error describes."""
        return cls(severity, error.where or "", error.what, error.remedy or "")

    @property
    def line(self) -> str:
        """The problem on one line: ``path: what. remedy``; control characters are escaped."""
        told = f"{self.what}{'' if self.what.endswith('?') else '.'} {self.remedy}"
        text = f"{self.where}: {told}" if self.where else told
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(problems: Sequence[Problem]) -> str:
    """The number of problems as text: ``1 problem``, ``2 problems``."""
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for all of a kind: where there are more than three, the first, with the number of the others.

    Of one kind are problems that differ in names, paths and numbers alone.
    """
    kinds: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        said = (_PARTICULARS.sub("", text) for text in (problem.what, problem.remedy))
        kinds.setdefault((problem.severity, *said), []).append(problem)
    found: list[Problem] = []
    for alike in kinds.values():
        found += alike if len(alike) <= _EXAMPLES else [_summed_up(alike)]
    return found


def _summed_up(alike: list[Problem]) -> Problem:
    first, *others = alike
    examples = ", ".join(_differs(first, other) for other in others[: _EXAMPLES - 1])
    return replace(first, what=f"{first.what} (and {len(others)} more of this kind: {examples}, ...)")


def _differs(first: Problem, other: Problem) -> str:
    """What tells a problem from the first of its kind: its file or line, or the first name or number in its text."""
    if other.where != first.where:
        return Path(other.where).name
    pairs = zip(_PARTICULARS.findall(other.what), _PARTICULARS.findall(first.what), strict=False)
    return next((mine for mine, its in pairs if mine != its), other.what)


def refuse_errors(problems: Iterable[Problem], folder: Path) -> None:
    """Raise one error with a line for each kind of error; do nothing if there are only warnings.

    Args:
        folder: the site's folder; paths inside it are shown relative to it.

    Raises:
        DataError: at least one problem is an error.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return
    lines = [replace(p, where=p.where.removeprefix(f"{folder}/")).line for p in grouped(errors)]
    raise DataError(
        f"the data cannot be used, {counted(errors)} found",
        where=folder,
        remedy="Mend what is listed above",
        details="\n".join(lines),
    )
