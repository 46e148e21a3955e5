"""Opens what a command is given that works at both sides: a coordinator's folder or a site's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.common.errors import ConfigError

if TYPE_CHECKING:
    from fedsteph.client.site.site import Site
    from fedsteph.server.deployment.server_file import ServerFile

EitherArgument = Annotated[
    Path, typer.Argument(help="The coordinator's folder or server.yaml, or the site's folder or site.yaml.")
]


def open_either(path: Path) -> ServerFile | Site:
    """The coordinator's file or the site of a path. Raises ConfigError if it is neither, or has a fault."""
    from fedsteph.client.site.site_file import SITE_FILE
    from fedsteph.common.config.schema import read_yaml
    from fedsteph.server.deployment.server_file import SERVER_FILE, ServerFile

    if not path.exists():
        raise ConfigError(
            "there is no such folder or file", where=path, remedy="Give a coordinator's or a site's folder"
        )
    if path.is_dir():
        found = [name for name in (SERVER_FILE, SITE_FILE) if (path / name).is_file()]
        if len(found) != 1:
            what = (
                f"holds both {SERVER_FILE} and {SITE_FILE}" if found else f"holds neither {SERVER_FILE} nor {SITE_FILE}"
            )
            raise ConfigError(what, where=path, remedy="Give a coordinator's or a site's folder, or the file itself")
        is_server = found == [SERVER_FILE]
    else:
        is_server = "superlink" in read_yaml(path)
    if is_server:
        return ServerFile.open(path)
    from fedsteph.client.site.site import Site

    return Site.open(path)
