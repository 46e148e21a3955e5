"""The consoles of the command line: results on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedsteph.common.host.progress import NamedProgress, Progress
from fedsteph.common.host.progress_lines import logged

out = Console()
err = Console(stderr=True, soft_wrap=True)


def say(text: str) -> None:
    """Print a line of a result on stdout as it is: paths are no markup, and no line is broken."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def tell(text: str, style: str | None = None) -> None:
    """Print a message on stderr, likewise."""
    err.print(text, style=style, markup=False, highlight=False)


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a result on stdout as a table."""
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def show_json(content: Any) -> None:
    """Print a result on stdout as strict JSON."""
    print(json.dumps(content, indent=2, allow_nan=False))


@contextmanager
def progress_bar() -> Iterator[NamedProgress]:
    """A progress bar on stderr with the name asked for last; it disappears at the end. Lines without a terminal."""
    if not err.is_terminal:
        with logged(tell) as lines:
            yield lines
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    with rich.progress.Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task("", total=None)

        def named(name: str) -> Progress:
            bars.update(task, description=name)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield named
