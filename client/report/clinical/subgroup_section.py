"""A target's section on subgroups: the C-index by stage, sex, age third and contributing site, as a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedsteph.client.data.problems import Problem, refuse_errors
from fedsteph.client.data.settings import Kind
from fedsteph.client.data.tables.clinical_table import ClinicalValues, read_clinical
from fedsteph.client.data.tables.table import read_table
from fedsteph.client.evaluation.subgroups import RESAMPLES, Ranked, Subgroup, columns_of, judge, subgroups
from fedsteph.client.site.site import Site
from fedsteph.client.target.evidence import Evidence
from fedsteph.common.errors import DataError, LabelError
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Block, Picture, Points, Section, Table
from fedsteph.common.report.style import REFERENCE, WIDTH, bar_of, canvas, legend_above

_TITLE = "C-index by subgroup"
_NOTE = (
    "Groups: the columns under data.clinical in site.yaml, the project, and the contributing site where all IDs are "
    f"TCGA's. Bars: 95% intervals of {RESAMPLES} resamples of the group's patients within each fold. Folds weigh by "
    "their pairs of patients, so 'all patients' may differ a little from the mean over folds. Many groups are looked "
    "at, so some differ by chance: no group is a finding of its own."
)
_NONE = "The patients are not grouped: the site file names no clinical columns."
_REMEDY = "Name such columns, for example stage, sex and age, under data.clinical in site.yaml and draw the page again."


def subgroup_section(site: Site, found: Evidence, methods: Mapping[str, str], who: str) -> Section:
    """The section, for the site itself.

    Args:
        found: its test patients, each once.
        methods: method -> title of the two that are compared.
        who: site, n, folds and seeds, shown in the figure.
    """
    name = f"{site.name}.subgroups"
    try:
        values = _values(site, found.ids.tolist())
    except (DataError, LabelError) as error:
        instead = f"It needs the site's table of labels as it was: {error.what}."
        return Section("Subgroups", [Picture(name, _TITLE, instead=instead)], 3)
    columns = columns_of(values)
    if not columns:
        return Section("Subgroups", [Picture(name, _TITLE, instead=f"{_NONE} {_REMEDY}")], 3)
    tested = Ranked(found.fold, found.times, found.events, {title: found.risk(key) for key, title in methods.items()})
    rows, left_out = [judge(tested, np.ones(len(found), dtype=bool), "all", "patients")], list[str]()
    for column in columns:
        groups, sentences = subgroups(tested, column)
        rows += groups
        left_out += sentences
    blocks: list[Block] = [forest(name, [row for row in rows if row is not None], who)]
    return Section("Subgroups", [*blocks, *([Points(left_out)] if left_out else [])], 3)


def _values(site: Site, patients: Sequence[str]) -> ClinicalValues:
    """The clinical values of these patients and their cohort, where the table has it; DataError: it has faults."""
    data, problems = site.file.data, list[Problem]()
    path = site.folder / data.labels
    kinds: dict[str, Kind] = dict(data.clinical)
    if data.columns.project in read_table(path, LabelError).columns:
        kinds.setdefault(data.columns.project, "category")
    values = read_clinical(path, kinds, data.columns.patient, patients, problems)
    refuse_errors(problems, site.folder)
    return values.of(patients)


def forest(name: str, rows: Sequence[Subgroup], who: str) -> Picture:
    """Draw every group's C-index by both methods, one below the other."""
    if not rows:
        return Picture(name, _TITLE, instead="There are too few patients or events for any group.")
    titles = list(rows[0].c_index)
    with canvas(_TITLE, who, WIDTH, 1.0 + 0.38 * len(rows)) as figure:
        axes = figure.subplots()
        axes.axvline(0.5, **REFERENCE)
        for i, title in enumerate(titles):
            for place, row in enumerate(rows):
                value, interval = row.c_index[title].value or 0.0, row.c_index[title].interval_95
                height = place + 0.26 * (i - (len(titles) - 1) / 2)
                look = {"elinewidth": 1, "markersize": 4.5, "linestyle": "none", **method_look(title, i).point}
                label = title if place == 0 else None
                axes.errorbar(value, height, xerr=bar_of(value, interval), label=label, **look)
        labels = [f"{row.column} {row.name}\n{row.n} patients, {row.n_events} events" for row in rows]
        axes.set_yticks(range(len(rows)), labels=labels, fontsize=7)
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="Harrell's C-index (0.5 is chance, 1 is perfect)")
        axes.tick_params(axis="y", length=0)
        legend_above(axes, ncols=len(titles))
    return Picture(name, _TITLE, figure, note=_NOTE, numbers=_numbers(rows))


def _numbers(rows: Sequence[Subgroup]) -> Table:
    titles = list(rows[0].c_index)
    cells = [
        [f"{row.column} {row.name}", str(row.n), str(row.n_events)]
        + [number.cell for number in (*row.c_index.values(), row.difference)]
        for row in rows
    ]
    header = ["group", "patients", "events", *titles, f"{titles[-1]} minus {titles[0]}"]
    return Table(header, cells, "C-index by subgroup", folded=True)
