"""Checks a site's data in full: reads every feature value and collects all problems in one report."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedsteph.client.data.discovery import discover
from fedsteph.client.data.formats import read_features
from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.splits import read_splits
from fedsteph.client.data.storage import Storage
from fedsteph.common.errors import FeatureFileError


@dataclass(frozen=True)
class InstanceCounts:
    """Number of instances per slide (minimum, median, maximum) and in total."""

    min: int
    median: float
    max: int
    total: int


@dataclass(frozen=True)
class SiteReport:
    """Summary of a site's data, and all problems found.

    Args:
        patients, slides, events: counts without excluded slides.
        instances: over the slides with a readable header; None if there are none.
        encoders, magnifications: as stated in the files; ``.pt`` files state none.
        time_unit: of the label table; ``follow_up_days`` is (shortest, longest) in days.
        splits: the number of split files; without any, splits are made from a seed.
        storage: one sentence on where training reads the features from.
    """

    folder: str
    patients: int
    slides: int
    events: int
    projects: tuple[str, ...]
    instances: InstanceCounts | None
    layouts: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    encoders: tuple[str, ...]
    magnifications: tuple[float, ...]
    time_unit: str
    follow_up_days: tuple[float, float] | None
    splits: int
    splits_source: Literal["files", "made from a seed"]
    storage: str
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem, not even a warning."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary of plain values, valid in strict JSON."""
        return asdict(self)


def check_site(folder: Path, settings: DataSettings, on_file: Callable[[int, int], None] | None = None) -> SiteReport:
    """Check a site's labels, features and splits; problems are reported, not raised.

    Args:
        on_file: called after each feature file with the number of files done and the total.
    """
    site = discover(folder, settings)
    problems = list(site.problems)
    for done, slide in enumerate(site.headers, 1):
        try:
            read_features(site.files[slide])
        except FeatureFileError as error:
            problems.append(Problem.of(error))
        if on_file is not None:
            on_file(done, len(site.headers))
    if site.patients and not any(patient.e for patient in site.patients):
        what = "no patient has an event, so nothing can be learned here"
        problems.append(Problem("warning", str(folder / settings.labels), what, "Check that 1 means an event"))
    splits, split_problems = read_splits(folder, site.listed, site.dropped)
    headers = list(site.headers.values())
    counts = [header.n_instances for header in headers]
    times = [patient.t for patient in site.patients]

    def all_of(fact: str) -> tuple[Any, ...]:
        return tuple(sorted({value for header in headers if (value := getattr(header, fact)) is not None}))

    return SiteReport(
        folder=str(folder),
        patients=len(site.patients),
        slides=sum(len(patient.slides) for patient in site.patients),
        events=sum(patient.e for patient in site.patients),
        projects=tuple(sorted({patient.project for patient in site.patients} - {""})),
        instances=InstanceCounts(min(counts), statistics.median(counts), max(counts), sum(counts)) if counts else None,
        layouts=all_of("layout"),
        widths=all_of("width"),
        dtypes=all_of("dtype"),
        encoders=all_of("encoder"),
        magnifications=all_of("magnification"),
        time_unit=settings.time_unit,
        follow_up_days=(min(times), max(times)) if times else None,
        splits=len(splits),
        splits_source="files" if splits else "made from a seed",
        storage=str(Storage.of(settings, site.n_bytes)),
        problems=(*problems, *split_problems),
    )
