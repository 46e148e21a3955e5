"""The consoles of the command line: results on stdout, progress and messages on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from fedsteph.common.host.progress import NamedProgress, Progress

out = Console()
err = Console(stderr=True, soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[NamedProgress]:
    """A progress bar on stderr that disappears at the end; none if stderr is not a terminal.

    It shows the name that was asked for last, and its progress.
    """
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn()
    with rich.progress.Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def named(name: str) -> Progress:
            bars.update(task, description=name)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield named
