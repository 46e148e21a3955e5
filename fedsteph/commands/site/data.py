"""``fedsteph data``: look at a site's data."""

from __future__ import annotations

import typer

from fedsteph.commands.terminal.options import JsonOption, SiteArgument
from fedsteph.common.errors import EXIT_DONE, EXIT_INPUT
from fedsteph.common.host import console

data = typer.Typer(no_args_is_help=True, help="Look at a site's data.")


@data.callback()
def group() -> None:
    pass


@data.command("check")
def check(site: SiteArgument, as_json: JsonOption = False) -> int:
    """Say what a site's data holds, and every problem in it. Exit code 1 if there is any, a warning too.

    \b
    Examples:
      fedsteph data check sites/kirp
      fedsteph data check sites/kirp --json | jq .problems
    """
    from fedsteph.client.data.check import check_site
    from fedsteph.client.data.problems import counted
    from fedsteph.client.site.device import resolve_device
    from fedsteph.client.site.site import Site
    from fedsteph.commands.terminal.check_table import check_table, problem_table

    opened = Site.open(site)
    resolve_device(opened.file.device)
    with console.progress_bar() as progress:
        report = check_site(opened.folder, opened.file.data, progress(f"reading the features of {opened.name}"))
    if as_json:
        console.show_json({"site": opened.name, **report.to_dict()})
    else:
        console.out.print(check_table(opened.name, report))
        if report.problems:
            console.out.print(problem_table(report.problems))
        else:
            console.out.print("no problem found")
    if report.ok:
        return EXIT_DONE
    console.tell(f"{opened.folder}: {counted(report.problems)} found")
    return EXIT_INPUT
