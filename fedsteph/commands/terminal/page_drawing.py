"""Draws a report page at the end of a command, with progress; a failure to draw does not hide the command's result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsteph.common.errors import FedstephError
from fedsteph.common.host import console
from fedsteph.common.host.progress import NamedProgress


@contextmanager
def drawing() -> Iterator[NamedProgress]:
    """Show how far the drawing of a page is."""
    with console.progress_bar() as progress:
        progress("drawing")
        yield progress


def draw_page(write: Callable[[NamedProgress], Path]) -> None:
    """Write a page after a command's results, and say where it is, or why there is none."""
    try:
        with drawing() as progress:
            text = f"Page: {write(progress)}"
    except FedstephError as error:
        text = f"There is no page: {error.sentence}"
    except Exception as error:  # noqa: BLE001 (the results are there, and no worse for it)
        text = f"There is no page, by a bug; please report it: {type(error).__name__}: {error}"
    console.tell(text)
