"""``fedsteph data``: look at a site's data."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption, SiteArgument
from fedsteph.common.errors import EXIT_DONE, EXIT_INPUT
from fedsteph.common.host import console

data = typer.Typer(no_args_is_help=True, help="Look at a site's data.")


@data.callback()
def group() -> None:
    pass


@data.command("check")
def check(
    site: SiteArgument,
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Every problem, and not one line a kind.")] = False,
    fix: Annotated[
        bool, typer.Option(help="Write into the site file under which rules names are the same, where some are.")
    ] = False,
) -> int:
    """Say what a site's data holds, and every kind of problem in it. Exit code 1 if there is any, a warning too.

    \b
    Examples:
      fedsteph data check sites/kirp
      fedsteph data check sites/kirp --all
      fedsteph data check sites/kirp --fix
      fedsteph data check sites/kirp --json | jq .problems
    """
    from fedsteph.client.data.check import check_site
    from fedsteph.client.data.problems import counted
    from fedsteph.client.site.device import resolve_device
    from fedsteph.client.site.mended_file import add_match
    from fedsteph.client.site.site import Site
    from fedsteph.commands.terminal.check_table import check_table, show_problems

    opened = Site.open(site)
    resolve_device(opened.file.device)
    with console.progress_bar() as progress:
        report = check_site(opened.folder, opened.file.data, progress(f"reading the features of {opened.name}"))
    rules = [rule for problem in report.problems for rule in problem.match]
    if fix and rules:
        path = add_match(site, rules)
        console.tell(f"{path}: data.match is now {', '.join(Site.open(site).file.data.match)}; checked again:")
        return check(site, as_json, every)
    if as_json:
        console.show_json({"site": opened.name, **report.to_dict()})
    else:
        console.out.print(check_table(opened.name, report))
        if report.problems:
            show_problems(console.out, report.problems, every)
        else:
            console.out.print("no problem found")
    if report.ok:
        return EXIT_DONE
    console.tell(f"{opened.folder}: {counted(report.problems)} found")
    return EXIT_INPUT
