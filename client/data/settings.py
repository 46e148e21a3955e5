"""What a site may say about its own data: the ``data:`` section of its optional ``site.yaml``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

TimeUnit = Literal["days", "months", "years"]
# Rules that make two spellings of one ID equal; matching.py applies them.
Rule = Literal["unicode", "spaces", "dashes", "endings", "uuid", "point_zero", "zeros", "case"]
# Of a clinical column; a tuple is the order of an ordinal's levels.
Kind = Literal["numeric", "category"] | tuple[str, ...]
# Not "off": to YAML that is the truth value false, and no text.
DiskCache = Literal["auto", "stored", "float16", "never"]

# The survival bins are years of 365 days, so a year here is exactly one bin and a month a twelfth of it.
_DAYS_PER_UNIT: dict[TimeUnit, float] = {"days": 1.0, "months": 365 / 12, "years": 365.0}


@dataclass(frozen=True)
class Columns:
    """The label table's column names, where they differ from the defaults.

    Raises:
        ValueError: a name is empty, or one column is to mean two things.
    """

    patient: str = "patient_id"  # column of the patients' IDs; splits_K.csv has the same IDs
    # column of the slides' IDs, which are the feature files' names without their ending; null: the table has a row per
    # patient, whose files are those with names that begin with the patient's ID
    slide: str | None = "pathology_id"
    project: str = "project"  # column of the cohort that a patient is from; may be absent, shown in reports only
    time: str = "t"  # column of the follow-up time, in data.time_unit
    event: str = "e"  # column of the event: 1 = observed, 0 = censored
    # column of the censorship: 1 = censored, 0 = observed; the event column is then not read. null: the event column is
    # read, or, where there is none, a column called censorship
    censorship: str | None = None

    def __post_init__(self) -> None:
        names = {made.name: getattr(self, made.name) for made in fields(self)}
        del names["censorship" if self.censorship is None else "event"]
        if self.slide is None:
            del names["slide"]
        for key, name in names.items():
            if not name or name != name.strip():
                raise ValueError(f"{key} must be a column's name without spaces around it, not {name!r}")
        name, count = Counter(names.values()).most_common(1)[0]
        if count > 1:
            keys = " and ".join(key for key in names if names[key] == name)
            raise ValueError(f"{keys} are all the column '{name}'; give each a column of its own")


@dataclass(frozen=True)
class DataSettings:
    """Where a site's features and labels are, and how to read them.

    Raises:
        ValueError: a value is out of its range. The message starts with the key.
    """

    features: str = "features"  # folder of the feature files, relative to the site's folder or absolute
    labels: str = "labels.csv"  # table of labels (CSV), relative to the site's folder or absolute
    columns: Columns = Columns()  # column names of the table of labels
    # clinical values in the table of labels, each column with its kind: numeric, category (any text), or the list of an
    # ordinal's levels from the lowest to the highest. A target measures what the slide adds to them; they stay at the
    # site [column: kind]
    clinical: dict[str, Kind] = field(default_factory=dict)
    # folder of splits_0.csv and so on, relative to the site's folder or absolute; null: the site's folder
    splits: str | None = None
    time_unit: TimeUnit = "days"  # unit of the time column; a year is 365 days, a month 365/12 days
    exclude: tuple[str, ...] = ()  # IDs of slides to leave out
    # rules under which IDs in the table, in file names, in splits and in exclude are the same. unicode: one Unicode
    # form; spaces: single ordinary ones; dashes: hyphens; endings: without .svs, .h5 and the like; uuid: without one at
    # the end; point_zero: without a .0 at the end; zeros: without leading ones; case: in any letter case
    match: tuple[Rule, ...] = ()
    # side of a patch in pixels at level 0, for the heatmaps of files that do not state it (fedsteph heatmap --site);
    # null: it is then guessed, with a warning [above 0]
    patch_size: float | None = None
    cache_gib: float = 2.0  # memory for features that were read before, in GiB; 0: none [at least 0]
    # copy of the features in the state folder, in a form that needs no decoding. auto: an exact copy where they do not
    # fit into cache_gib; stored: an exact copy in any case; float16: a rounded copy, half as large, slower; never: none
    disk_cache: DiskCache = "auto"

    def __post_init__(self) -> None:
        for key in ("features", "labels", "splits"):
            if (path := getattr(self, key)) is not None and not path.strip():
                raise ValueError(f"{key} must name a path relative to the site's folder, not be empty")
        if self.time_unit not in _DAYS_PER_UNIT:
            raise ValueError(f"time_unit must be one of {', '.join(_DAYS_PER_UNIT)}, not {self.time_unit!r}")
        if not all(slide.strip() for slide in self.exclude):
            raise ValueError("exclude must list slide IDs, and one of them is empty")
        if unknown := {*self.match} - {*get_args(Rule)}:
            raise ValueError(f"match must list rules of {', '.join(get_args(Rule))}, not {min(unknown)!r}")
        if self.patch_size is not None and not (math.isfinite(self.patch_size) and self.patch_size > 0):
            raise ValueError(f"patch_size must be a number of pixels above 0, or null, not {self.patch_size}")
        for problem in self._clinical_problems():
            raise ValueError(problem)
        if self.disk_cache not in get_args(DiskCache):
            raise ValueError(f"disk_cache must be one of {', '.join(get_args(DiskCache))}, not {self.disk_cache!r}")
        if not (math.isfinite(self.cache_gib) and self.cache_gib >= 0):
            raise ValueError(f"cache_gib must be 0 or more, not {self.cache_gib}")

    def _clinical_problems(self) -> Iterator[str]:
        columns = self.columns
        taken = {columns.patient, columns.slide, columns.time, columns.event, columns.censorship, "censorship"}
        for name, kind in self.clinical.items():
            if not name or name != name.strip():
                yield f"clinical must name columns without spaces around them, and one is {name!r}"
            elif name in taken:
                yield f"clinical must not name '{name}': an ID or an outcome is no clinical value"
            elif isinstance(kind, tuple) and (len(kind) < 2 or len({*kind}) < len(kind)):
                yield f"clinical.{name} must list two or more levels, each once, from the lowest to the highest"
            elif isinstance(kind, tuple) and not all(level and level == level.strip() for level in kind):
                yield f"clinical.{name} has an empty level, or one with spaces around it"

    @property
    def days_per_unit(self) -> float:
        """The factor from the table's time unit to days."""
        return _DAYS_PER_UNIT[self.time_unit]
