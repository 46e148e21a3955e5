"""``fedsteph doctor``: whatever would make a run hang or fail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption, ServerArgument
from fedsteph.common.host import console

doctor = typer.Typer(no_args_is_help=True, help="Look for whatever would make a run hang or fail.")


@doctor.command("site")
def doctor_site(
    site: Annotated[Path, typer.Argument(help="The site's site.yaml, or its folder.")],
    quick: Annotated[bool, typer.Option("--quick", help="Do not read every feature file.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Check a site: versions, account, data, device, keys, roster, policy, reviewed app, server, clock, space.

    \b
    Examples:
      fedsteph doctor site site.yaml
      fedsteph doctor site site.yaml --quick --json

    Exit code 1 if a check fails; a warning alone does not.
    """
    from fedsteph.client.deployment.site_doctor import examine
    from fedsteph.client.site.site import Site
    from fedsteph.common.deployment.checks import report

    opened = Site.open(site)
    with console.progress_bars() as bars:
        task = bars.add_task(f"examining {opened.name}", total=None)
        checks = examine(opened, quick, lambda done, total: bars.update(task, completed=done, total=total))
    return report(f"site {opened.name}", checks, as_json)


@doctor.command("server")
def doctor_server(
    server: ServerArgument,
    before_start: Annotated[
        bool, typer.Option("--before-start", help="The SuperLink is not running yet: its port must be free.")
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Check the server: versions, secrets, certificate and SANs, ports, proxy, roster, audit, space.

    \b
    Examples:
      fedsteph doctor server server
      fedsteph doctor server server --before-start

    Exit code 1 if a check fails; a warning alone does not.
    """
    from fedsteph.common.deployment.checks import report
    from fedsteph.server.deployment.server_doctor import examine
    from fedsteph.server.deployment.server_file import ServerFile

    return report("server", examine(ServerFile.open(server), before_start), as_json)
