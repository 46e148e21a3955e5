"""Prints the result of a site's data check as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from fedsteph.client.data.check import SiteReport
from fedsteph.client.data.problems import Problem, counted


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


def problem_table(problems: Sequence[Problem]) -> Table:
    """Every problem, one row each."""
    table = Table(title=counted(problems), title_justify="left")
    for name in ("", "where", "what", "remedy"):
        table.add_column(name, overflow="fold")
    for problem in problems:
        style = "red" if problem.severity == "error" else "yellow"
        table.add_row(Text(problem.severity, style), Text(problem.where), Text(problem.what), Text(problem.remedy))
    return table


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values) or "-"
