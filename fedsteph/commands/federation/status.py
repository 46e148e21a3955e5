"""``fedsteph status``: how a coordinator or a site is doing now."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.either_side import EitherArgument, open_either
from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import EXIT_DONE, EXIT_FEDERATION
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.deployment.site_status import SiteStatus
    from fedsteph.client.site.site import Site
    from fedsteph.server.deployment.coordinator_status import CoordinatorStatus
    from fedsteph.server.deployment.server_file import ServerFile


def status(
    where: EitherArgument = Path(),
    as_json: JsonOption = False,
    watch: Annotated[
        float | None, typer.Option(help="Look again every so many seconds, until Ctrl-C.", min=1, metavar="SECONDS")
    ] = None,
) -> int:
    """Show how a coordinator or a site is doing now. It changes nothing, and no site is asked.

    At the coordinator: connected sites, roster, the current run's phase and each site's progress, the last runs.
    At a site: connection, last run and decision, ledger, kept vectors, disk, certificates, warnings of the doctor.
    The server knows of a site's work whether it was asked and has answered, and no more.

    \b
    Examples:
      fedsteph status server
      fedsteph status site.yaml --json
      fedsteph status server --watch 30
      fedsteph status server --watch 60 --json >> status.jsonl     one line a look

    \b
    Exit codes:
      0 all is well
      1 your input
      2 something is not well, as the last lines say: a site of the current
        run is missing or has failed, less than a tenth of a phase's time is
        left, the SuperLink, the SuperNode or the server does not answer, a
        certificate has expired, the disk is full
    """
    opened = open_either(where)
    while True:
        found = look(opened)
        if watch is not None and not as_json and console.out.is_terminal:
            console.out.clear()
        _show(found, as_json, watch is not None)
        if watch is None:
            return EXIT_FEDERATION if found.problems else EXIT_DONE
        time.sleep(watch)


def look(opened: ServerFile | Site) -> CoordinatorStatus | SiteStatus:
    """One look at either side."""
    from fedsteph.server.deployment.server_file import ServerFile

    if isinstance(opened, ServerFile):
        from fedsteph.server.deployment.coordinator_status import coordinator_status

        return coordinator_status(opened)
    from fedsteph.client.deployment.site_status import site_status

    return site_status(opened)


def _show(found: CoordinatorStatus | SiteStatus, as_json: bool, many: bool) -> None:
    from fedsteph.commands.terminal.status_tables import show_coordinator, show_site
    from fedsteph.server.deployment.coordinator_status import CoordinatorStatus

    if as_json:
        content = {"ok": not found.problems, **asdict(found)}
        if many:
            print(json.dumps(content, allow_nan=False), flush=True)
        else:
            console.show_json(content)
    elif isinstance(found, CoordinatorStatus):
        show_coordinator(found)
    else:
        show_site(found)
