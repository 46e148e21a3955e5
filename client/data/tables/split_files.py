"""Finds a site's split files by their names: ``splits_0.csv``, ``splits_1.csv`` and so on."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from fedsteph.client.data.problems import Problem

_BESIDE = re.compile(r"splits?_[0-9]+_(bool|descriptor)\.csv")  # CLAM writes these beside each split
_HERE = re.compile(r"splits_(0|[1-9][0-9]*)\.csv")
_NAMED = re.compile(r"(?:splits?|folds?)_?(0|[1-9][0-9]*)\.csv", re.IGNORECASE)
# Splits of other forms, such as a folder per fold with train.csv and test.csv.
_UNREADABLE = ("split*.json", "*/split*.json", "train.csv", "*/train.csv", "*/*/train.csv")
_ELSEWHERE = ("split[_0-9]*.csv", "fold*.csv", "split*/*.csv", "split*/*/*.csv", "fold*/*.csv")


def split_files(folder: Path, within: str | None = None) -> tuple[list[Path], list[Problem]]:
    """The split files in the order of their numbers, from 0 or 1, and what is wrong with their names.

    CLAM's ``splits_0_bool.csv`` and ``splits_0_descriptor.csv`` are passed over.

    Args:
        folder: the site's folder.
        within: another folder that holds the split files; there they may also be called ``split_0.csv`` or
            ``fold_0.csv``. None: they lie in the site's folder, and files elsewhere that look like splits are named.
    """
    place = folder / (within or ".")
    numbered: dict[int, Path] = {}
    problems: list[Problem] = []
    for path in sorted(place.glob("*.csv" if within else "splits_*.csv")):
        if number := (_NAMED if within else _HERE).fullmatch(path.name):
            if (other := numbered.setdefault(int(number[1]), path)) != path:
                problems.append(_error(path, f"is a split of the same number as {other.name}", "Keep one of them"))
        elif not within and not _BESIDE.fullmatch(path.name):
            problems.append(_error(path, "has no plain number in its name", "Call it splits_0.csv, or so"))
    if within and not numbered:
        what = "holds no split file" if place.is_dir() else "there is no such folder of splits"
        problems.append(_error(place, what, "Mend 'data.splits' in site.yaml; the files are called splits_0.csv or so"))
    first = min(numbered, default=0) if min(numbered, default=0) <= 1 else 0
    gap = next(number for number in count(first) if number not in numbered)
    if gap < first + len(numbered):
        what = "is missing, and splits are numbered from 0 or 1 without a gap"
        problems.append(_error(place / f"splits_{gap}.csv", what, "Add it or rename the others"))
    return [path for _, path in sorted(numbered.items())], [*problems, *([] if within else unused(folder, numbered))]


def unused(folder: Path, used: object) -> list[Problem]:
    """A warning that names the first file that looks like a split and is none; ``used``: whether there are splits."""
    found, others = split_like(folder), sorted({path for glob in _UNREADABLE for path in folder.glob(glob)})
    if not found and not others:
        return []
    first, n = (found or others)[0], len(found or others)
    instead = "the splits in the site's folder are" if used else "folds made from a seed are"
    mean = f"write 'data: {{splits: {first.parent.relative_to(folder).as_posix()}}}' into site.yaml"
    if not found:
        mean = (
            "write a splits_0.csv and so on, with the columns train, test and perhaps val, a patient's ID in each cell"
        )
    what = f"looks like a split and is not used ({'1 file' if n == 1 else f'{n} files'} of such names)"
    return [Problem("warning", str(first), what, f"Now {instead} used. If these are meant, {mean}")]


def split_like(folder: Path) -> list[Path]:
    """Files in the site's folder or below it that look like splits, the site's own split files left out."""
    found = (path for glob in _ELSEWHERE for path in folder.glob(glob) if _NAMED.fullmatch(path.name))
    return sorted({path for path in found if path.parent != folder or not _HERE.fullmatch(path.name)})


def _error(path: Path, what: str, remedy: str) -> Problem:
    return Problem("error", str(path), what, remedy)
