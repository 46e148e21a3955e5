"""Describes a target's cohort in one line, for the top of the pages that stay at the site."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.common.model.survival import DAYS_PER_BIN

_NAMED = ("age", "sex", "gender", "stage")  # in the names of the columns that the line tells of
_MOST_GROUPS = 8


def cohort_line(cohort: Cohort) -> str:
    """Patients, events, slides and follow-up; age, sex and stage where the site file names such columns."""
    n_slides = sum(len(patient.slides) for patient in cohort.patients)
    years = cohort.times / DAYS_PER_BIN
    told = [
        f"{len(cohort)} patients, {int(cohort.events.sum())} events, {n_slides} slides",
        f"follow-up {years.min():.1f} to {years.max():.1f} years, median {np.median(years):.1f}",
    ]
    if cohort.clinical is not None:
        told += _clinical(cohort.clinical.of(patient.id for patient in cohort.patients))
    return f"{'; '.join(told)}."


def _clinical(values: ClinicalValues) -> Iterator[str]:
    for column, kind in values.kinds.items():
        if not any(name in column.lower() for name in _NAMED):
            continue
        if kind == "numeric":
            known = values.measured(column)
            known = known[np.isfinite(known)]
            if len(known):
                yield f"{column} {known.min():g} to {known.max():g}, median {np.median(known):g}"
        else:
            groups = _groups(values, column)
            if 0 < len(groups) <= _MOST_GROUPS:
                yield f"{column}: {', '.join(f'{name} {count}' for name, count in groups.items())}"


def _groups(values: ClinicalValues, column: str) -> dict[str, int]:
    """Patients by level, in the levels' order; without those whose value is missing."""
    kind = values.kinds[column]
    if isinstance(kind, tuple):
        places = values.measured(column)
        counts = {level: int((places == place).sum()) for place, level in enumerate(kind)}
    else:
        names, n = np.unique(values.categories(column), return_counts=True)
        counts = {str(name): int(count) for name, count in zip(names, n, strict=True) if name}
    return {name: count for name, count in counts.items() if count}
