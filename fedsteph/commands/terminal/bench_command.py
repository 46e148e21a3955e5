"""How every benchmark is started, and how it says what it found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import typer

from fedsteph.common.host import console


def tell(found: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Print the figures for a script, as JSON on stdout, or let ``show`` print them for people."""
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        show(found)


def start(main: Callable[..., None]) -> None:
    """Run ``main`` with the arguments of this process, and end it with the exit code of fedsteph's commands."""
    cli = typer.Typer(add_completion=False)
    cli.command()(main)
    sys.exit(console.run(lambda: cli(standalone_mode=False)))
