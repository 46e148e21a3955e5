"""``fedsteph doctor``: whatever would make a run hang or fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption, ServerArgument
from fedsteph.common.errors import EXIT_DONE, EXIT_INPUT
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.common.deployment.checks import Check

_COLOURS = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}
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

    opened = Site.open(site)
    with console.progress_bar() as progress:
        checks = examine(opened, quick, progress(f"examining {opened.name}"))
    return show_checks(f"site {opened.name}", checks, as_json)


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
    from fedsteph.server.deployment.server_doctor import examine
    from fedsteph.server.deployment.server_file import ServerFile

    opened = ServerFile.open(server)
    with console.progress_bar() as progress:
        progress("examining the server")
        checks = examine(opened, before_start)
    return show_checks("server", checks, as_json)


def show_checks(title: str, checks: Sequence[Check], as_json: bool) -> int:
    """Print the checks; exit code 1 if one failed. A warning alone does not fail."""
    failed = [found for found in checks if found.verdict == "FAIL"]
    if as_json:
        console.show_json({"ok": not failed, "checks": [asdict(found) for found in checks]})
    else:
        console.out.print(title, style="bold", markup=False)
        widest = max(len(found.name) for found in checks)
        for found in checks:
            console.out.print(found.verdict, style=_COLOURS[found.verdict], end="  ")
            console.say(f"{found.name:{widest}}  {found.found}")
            if found.remedy is not None:
                console.say(f"{'':6}{'':{widest}}  -> {found.remedy}")
    if not failed:
        return EXIT_DONE
    console.tell(f"{len(failed)} of {len(checks)} checks failed")
    return EXIT_INPUT
