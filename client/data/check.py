"""Checks a site's data in full: reads every feature value and collects all problems in one report."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedsteph.client.data.discovery import SiteContents, discover
from fedsteph.client.data.formats import FeatureHeader, read_features
from fedsteph.client.data.odd_values import Copies, odd_rows
from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.storage import Storage
from fedsteph.client.data.tables.splits import read_splits
from fedsteph.common.errors import FeatureFileError
from fedsteph.common.host.progress import Progress, silent


@dataclass(frozen=True)
class InstanceCounts:
    """Number of instances per slide (minimum, median, maximum) and in total."""

    min: int
    median: float
    max: int
    total: int


@dataclass(frozen=True)
class SiteReport:
    """Summary of a site's data, and all problems found; counts are without excluded slides."""

    folder: str
    patients: int
    slides: int
    events: int
    projects: tuple[str, ...]
    instances: InstanceCounts | None  # over the slides with a readable header; None if there are none
    layouts: tuple[str, ...]
    widths: tuple[int, ...]
    dtypes: tuple[str, ...]
    encoders: tuple[str, ...]  # as stated in the files; .pt files state none
    magnifications: tuple[float, ...]  # likewise
    patch_sizes: tuple[float, ...]  # likewise
    time_unit: str  # of the label table
    follow_up_days: tuple[float, float] | None  # shortest and longest
    splits: int  # number of split files
    splits_source: Literal["files", "made from a seed"]
    storage: str  # where training reads the features from, in one sentence
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem, not even a warning."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary of plain values, valid in strict JSON."""
        return asdict(self)


def check_site(folder: Path, settings: DataSettings, progress: Progress = silent) -> SiteReport:
    """Check a site's labels, features and splits; problems are reported, not raised. Progress is in feature files."""
    site = discover(folder, settings)
    problems = [*site.problems, *_of_values(site, progress)]
    events = sum(patient.e for patient in site.patients)
    if site.patients and not events:
        what = "no patient has an event, so nothing can be learned here"
        problems.append(Problem("warning", str(folder / settings.labels), what, "Check that 1 means an event"))
    splits, split_problems = read_splits(
        folder, site.listed, site.dropped, slides=site.listed_slides, match=settings.match, within=settings.splits
    )
    times = [patient.t for patient in site.patients]
    return SiteReport(
        folder=str(folder),
        patients=len(site.patients),
        slides=sum(len(patient.slides) for patient in site.patients),
        events=events,
        projects=tuple(sorted({patient.project for patient in site.patients} - {""})),
        **_of_headers(site.headers.values()),
        time_unit=settings.time_unit,
        follow_up_days=(min(times), max(times)) if times else None,
        splits=len(splits),
        splits_source="files" if splits else "made from a seed",
        storage=str(Storage.of(settings, site.n_bytes)),
        problems=(*problems, *split_problems),
    )


def _of_values(site: SiteContents, progress: Progress) -> Iterator[Problem]:
    """Read every feature file with a readable header; report those that cannot be read, and odd values."""
    copies = Copies()
    for done, slide in enumerate(site.headers, 1):
        path = site.files[slide]
        try:
            values = read_features(path)
        except FeatureFileError as error:
            yield Problem.of(error)
        else:
            for what in (*odd_rows(values), *copies.look(slide, values)):
                yield Problem("warning", str(path), what, "Look at the slide, and extract it again or exclude it")
        progress(done, len(site.headers))


def _of_headers(headers: Collection[FeatureHeader]) -> dict[str, Any]:
    """The fields of a report that are read from the headers of feature files."""
    stated = [vars(header) | vars(header.extraction) for header in headers]
    names = ("layout", "width", "dtype", "encoder", "magnification", "patch_size")
    facts: dict[str, Any] = {f"{name}s": tuple(sorted({one[name] for one in stated} - {None})) for name in names}
    counts = [header.n_instances for header in headers]
    instances = InstanceCounts(min(counts), statistics.median(counts), max(counts), sum(counts)) if counts else None
    return facts | {"instances": instances}
