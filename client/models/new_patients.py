"""Finds the patients to predict: each file of a folder, or the patients of a table, with outcomes if it has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsteph.client.data.discovery import discover
from fedsteph.client.data.formats import SUFFIXES, is_feature_file, is_utf8
from fedsteph.client.data.problems import Problem, refuse_errors
from fedsteph.client.data.settings import Columns, DataSettings
from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.client.data.tables.labels import Patient, absent_outcomes
from fedsteph.common.errors import DataError


@dataclass(frozen=True)
class NewPatients:
    """Patients to predict."""

    patients: tuple[Patient, ...]
    files: Mapping[str, Path]  # feature file per slide ID
    inputs: tuple[Path, ...]  # files and folders that are read
    without_outcomes: str | None  # why no outcome is known; None: the patients' t and e are true
    warnings: tuple[Problem, ...] = ()
    clinical: ClinicalValues | None = None  # of the table, where the site file names clinical columns
    patient_column: str = Columns().patient  # of tables with these patients' IDs


def every_file(features: Path) -> NewPatients:
    """Each feature file of a folder as one patient, called as the file without its ending.

    A file counts by its ending, whatever it holds: a failed file must be reported, and a copy such as ``S1.h5.bak`` is
    no patient.

    Raises:
        DataError: no such folder, no feature file in it, two of one slide, or a name that is not UTF-8.
    """
    if not features.is_dir():
        raise DataError("there is no such folder", where=features, remedy="Give the folder of feature files")
    files: dict[str, Path] = {}
    others: list[Path] = []
    for path in sorted(features.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in SUFFIXES:
            others.append(path)
            continue
        if not is_utf8(path.name):
            raise DataError("its name is not UTF-8", where=path, remedy="Rename it")
        if path.stem in files:
            raise DataError(f"the slide '{path.stem}' has two feature files", where=path, remedy="Keep one of them")
        files[path.stem] = path
    if not files:
        raise DataError(
            "holds no feature file", where=features, remedy=f"Give a folder of {', '.join(sorted(SUFFIXES))} files"
        )
    patients = tuple(Patient(slide, 0.0, 0, (slide,)) for slide in files)
    return NewPatients(patients, files, (features,), "no table of outcomes was given", _passed_over(features, others))


def in_table(folder: Path, settings: DataSettings, where: Path) -> NewPatients:
    """The patients of a table, with or without outcomes; names, columns, unit and exclusions are as ``settings`` say.

    Args:
        folder: what the paths in ``settings`` are relative to.
        where: the path that an error names, the site's folder or the table.

    Raises:
        LabelError: the table cannot be read.
        DataError: the data has errors. The message is a table of all of them.
    """
    labels = folder / settings.labels
    absent = absent_outcomes(labels, settings)
    found = discover(folder, settings, outcomes=not absent)
    refuse_errors(found.problems, where)
    why = f"{labels} has no column {' and no '.join(absent)}" if absent else None
    inputs = (folder / settings.features, labels)
    facts = tuple(found.problems), found.clinical, settings.columns.patient
    return NewPatients(tuple(found.patients), found.files, inputs, why, *facts)


def _passed_over(features: Path, others: list[Path]) -> tuple[Problem, ...]:
    """A warning of files that hold features and do not count; logs and settings of extractors are not worth a word."""
    alike = [path for path in others if is_feature_file(path)]
    if not alike:
        return ()
    many = "1 file is" if len(alike) == 1 else f"{len(alike)} files are"
    what = f"{many} passed over: features by content, but not by the end of the name (such as {alike[0].name})"
    return (Problem("warning", str(features), what, "Where one is a slide's, let its name end in .h5"),)
