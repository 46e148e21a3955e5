"""``fedsteph app``: the reviewed code, the only one that a site runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.host import console

app = typer.Typer(no_args_is_help=True, help="The reviewed code, the only one that a site runs.")


FolderArgument = Annotated[Path, typer.Argument(help="The FLWR_HOME of the SuperNode, e.g. flwr.")]


@app.command("install")
def install(folder: FolderArgument) -> None:
    """Install this fedsteph's own code as a version of the one app that a site runs, and make it read-only.

    \b
    Examples:
      sudo fedsteph app install /opt/fedsteph/site/flwr

    Do it as another user than the SuperNode's, which then cannot change it: a run with other code is refused. The
    first version is in use at once, a later one after 'fedsteph app use'.
    """
    from fedsteph.client.deployment import app_versions
    from fedsteph.client.deployment.reviewed_app import installed
    from fedsteph.common.deployment import flower_app

    name = app_versions.install_version(folder)
    [found] = installed(folder / app_versions.VERSIONS / name)
    console.say(f"installed, read-only: {found}")
    console.say(f"digest of its code: {flower_app.digest_of(found)}")
    if (in_use := app_versions.current(folder)) != name:
        console.tell(
            f"in use is {in_use} still; when all sites and the server change: fedsteph app use {folder} {name}"
        )


@app.command("list")
def list_versions(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """List the installed versions, and which one is in use.

    \b
    Examples:
      fedsteph app list /opt/fedsteph/site/flwr
    """
    from fedsteph.client.deployment import app_versions

    names = app_versions.versions(folder)
    in_use = app_versions.current(folder)
    if as_json:
        return console.show_json({"current": in_use, "versions": names})
    for name in names:
        console.say(f"{'*' if name == in_use else ' '} {name}")


@app.command("use")
def use(folder: FolderArgument, name: Annotated[str, typer.Argument(help="As 'fedsteph app list' shows it.")]) -> None:
    """Switch to an installed version, or back: at once and as a whole. Do it between runs, at all sites.

    \b
    Examples:
      sudo fedsteph app use /opt/fedsteph/site/flwr 0.2.0-1f5aab98f0a5
    """
    from fedsteph.client.deployment import app_versions

    app_versions.use(folder, name)
    console.say(f"in use: {name}")


@app.command("digest")
def digest() -> None:
    """Print the digest of this fedsteph's own code, to compare with other sites of the same version.

    \b
    Examples:
      fedsteph app digest
    """
    from fedsteph.common.deployment import flower_app

    print(flower_app.own_digest())
