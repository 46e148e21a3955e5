"""Tables with a row per patient, which name no slides: a feature file is the patient's whose ID its name begins with.

So are the tables of portals, and TCGA's files: ``TCGA-AB-1234`` has ``TCGA-AB-1234-01Z-00-DX1.h5``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from fedsteph.client.data.matching import same
from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import Rule
from fedsteph.client.data.tables.table import Table
from fedsteph.common.errors import LabelError

FILE = "(file)"  # the column of slides that is added


def owners(patients: Collection[str], files: Collection[str], match: Collection[Rule]) -> dict[str, list[str]]:
    """Each file's patients: those whose ID is its name, or stands before a sign that is no letter and no digit.

    A file of more than one, as of ``A-1`` and ``A-1-2``, is nobody's until one is renamed.
    """
    called = {same(patient, match): patient for patient in sorted(patients, reverse=True) if patient}
    found = {}
    for file in files:
        name = same(file, match)
        ends = [i for i in range(1, len(name) + 1) if i == len(name) or not name[i].isalnum()]
        found[file] = [called[name[:i]] for i in ends if name[:i] in called]
    return found


def with_slides(table: Table, patient: str, of_file: Mapping[str, list[str]]) -> Table:
    """The table with a row per slide and the column :data:`FILE`, which is empty for patients without a file."""
    slides: dict[str, list[str]] = {}
    for file, [owner, *others] in ((file, found) for file, found in sorted(of_file.items()) if found):
        if not others:
            slides.setdefault(owner, []).append(file)
    rows = ((line, row | {FILE: file}) for line, row in table.rows for file in slides.get(row[patient], [""]))
    return replace(table, columns=(*table.columns, FILE), rows=tuple(rows))


def doubtful(table: Table, patient: str, of_file: Mapping[str, list[str]]) -> Iterator[Problem]:
    """Files of more than one patient, and how many patients have none. Raises LabelError if all have none."""
    for file, found in sorted(of_file.items()):
        if len(found) > 1:
            what = f"the name of the file '{file}' begins with the IDs of the patients '{found[0]}' and '{found[1]}'"
            yield Problem("error", str(table.path), what, "Add a column of slides, or rename the file")
    without = [row[patient] for _, row in table.rows if not row[FILE]]
    if len(without) == len(table.rows):
        what = f"no feature file's name begins with an ID of the column '{patient}'; the first is '{without[0]}'"
        remedy = "Name the column of slides under 'data.columns.slide', or begin the files' names with the IDs"
        raise LabelError(what, where=table.path, remedy=remedy)
    if without:
        what = f"{len(without)} of its patients have no feature file and are left out (first: '{min(without)}')"
        yield Problem("warning", str(table.path), what, "Add their files, or remove their rows; or ignore")
