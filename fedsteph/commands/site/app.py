"""``fedsteph app``: the reviewed code, the only one that a site runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.common.host import console

app = typer.Typer(no_args_is_help=True, help="The reviewed code, the only one that a site runs.")


@app.command("install")
def install(home: Annotated[Path, typer.Argument(help="A FLWR_HOME for the SuperNode, e.g. flwr.")]) -> None:
    """Install this fedsteph's own code as the one app that a site runs, and make it read-only.

    \b
    Examples:
      sudo fedsteph app install /opt/fedsteph/site/flwr

    Do it as another user than the SuperNode's, which then cannot change it: a run with other code is refused.
    """
    from fedsteph.client.deployment import reviewed_app
    from fedsteph.common.deployment import flower_app

    folder = reviewed_app.install(home)
    console.say(f"installed, read-only: {folder}")
    console.say(f"digest of its code: {flower_app.digest_of(folder)}")


@app.command("digest")
def digest() -> None:
    """Print the digest of this fedsteph's own code, to compare with other sites of the same version.

    \b
    Examples:
      fedsteph app digest
    """
    from fedsteph.common.deployment import flower_app

    print(flower_app.own_digest())
