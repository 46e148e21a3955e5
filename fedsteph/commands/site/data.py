"""``fedsteph data``: look at a site's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsteph.commands.terminal.options import JsonOption, SiteArgument
from fedsteph.common.errors import EXIT_DONE, EXIT_INPUT, ConfigError
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
    from fedsteph.client.site.mended_file import add_match
    from fedsteph.client.site.site import Site
    from fedsteph.client.training.device import resolve_device
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


@data.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder with feature files and a table of labels, also below it.")],
    features: Annotated[Path | None, typer.Option(help="Folder of the feature files; default: looked for.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table of labels (CSV); default: looked for.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the time, which chooses between outcomes.")] = None,
    time_unit: Annotated[str | None, typer.Option(help="days, months or years; default: asked for.")] = None,
) -> int:
    """Look at a folder as it is, and write a site.yaml for it, with what was found and why.

    What cannot be known, such as the unit of a column "time", is asked for; without a terminal, an option says it.

    \b
    Examples:
      fedsteph data init kirp
      fedsteph data init kirp --time DSS_MONTHS
      fedsteph data init kirp --features kirp/uni2 --labels kirp/clinical.csv --time-unit days
    """
    from fedsteph.client.site.proposed_file import Given, propose
    from fedsteph.client.site.site_file import SITE_FILE
    from fedsteph.common.host import atomic

    if time_unit not in (None, "days", "months", "years"):
        raise ConfigError(f"'{time_unit}' is no unit", where="--time-unit", remedy="Write days, months or years")
    text = propose(folder, Given(features, labels, time, time_unit), _ask).text()  # type: ignore[arg-type]
    atomic.write_text(folder / SITE_FILE, text)
    console.say(f"{folder / SITE_FILE}:\n\n{text}")
    console.say("Look it through; next:")
    return check(folder)


def _ask(question: str, choices: Sequence[Any], option: str) -> Any:
    """The choice of the person at the terminal. Raises ConfigError where there is none."""
    import sys

    from rich.prompt import Prompt

    told = {str(choice): choice for choice in choices}
    if not (sys.stdin.isatty() and console.err.is_terminal):
        what = f"{question}? It may be {', '.join(told)}"
        raise ConfigError(what, where="fedsteph data init", remedy=f"Say which with {option}")
    return told[Prompt.ask(question, choices=[*told], console=console.err)]
