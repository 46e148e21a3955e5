"""Prints the result of a site's data check: facts as a table, problems as lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsteph.client.data.check import SiteReport
from fedsteph.client.data.problems import Problem, grouped


def check_table(name: str, report: SiteReport) -> Table:
    """What was found, one line a fact."""
    table = Table("", "found", title=f"site {name}", title_justify="left")
    counts, follow_up = report.instances, report.follow_up_days
    rows = {
        "patients": report.patients,
        "slides": report.slides,
        "events (e = 1)": report.events,
        "follow-up": "-" if follow_up is None else f"{follow_up[0]:g} to {follow_up[1]:g} days",
        "time unit of the table": report.time_unit,
        "projects": _listed(report.projects),
        "instances per slide": "-" if counts is None else f"{counts.min} to {counts.max}, median {counts.median:g}",
        "instances": "-" if counts is None else counts.total,
        "feature width": _listed(report.widths),
        "encoder": _listed(report.encoders),
        "magnification": _listed(f"{value:g}x" for value in report.magnifications),
        "patch size": _listed(f"{value:g} pixels" for value in report.patch_sizes),
        "layout": _listed(report.layouts),
        "number type": _listed(report.dtypes),
        "splits": f"{report.splits} files" if report.splits else report.splits_source,
        "storage": report.storage,
    }
    for fact, value in rows.items():
        table.add_row(fact, Text(str(value)))
    return table


def show_problems(to: Console, problems: Sequence[Problem], every: bool = False) -> None:
    """Print a line for each kind of problem, or for every problem; no line is broken, so that paths can be copied."""
    for problem in problems if every else grouped(problems):
        style = "red" if problem.severity == "error" else "yellow"
        line = Text(f"{problem.severity}: ", style).append(Text(problem.line, "default"))
        to.print(line, soft_wrap=True)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values) or "-"
