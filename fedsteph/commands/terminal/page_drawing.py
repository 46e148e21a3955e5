"""Draws a report page at the end of a command, with progress; a failure to draw does not hide the command's result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsteph.client.report.analysis import OnStep
from fedsteph.common.errors import FedstephError
from fedsteph.common.host import console


@contextmanager
def drawing() -> Iterator[OnStep]:
    """Show how far the drawing of a page is."""
    if not console.err.is_terminal:
        console.err.print("drawing ...", markup=False)
    with console.progress_bars() as bars:
        task = bars.add_task("drawing", total=None)

        def on_step(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield on_step


def draw_page(write: Callable[[OnStep], Path]) -> None:
    """Write a page after a command's results, and say where it is, or why there is none."""
    try:
        with drawing() as on_step:
            text = f"Page: {write(on_step)}"
    except FedstephError as error:
        text = f"There is no page: {error.sentence}"
    except Exception as error:  # noqa: BLE001 (the results are there, and no worse for it)
        text = f"There is no page, by a bug; please report it: {type(error).__name__}: {error}"
    console.err.print(text, soft_wrap=True, markup=False, highlight=False)
