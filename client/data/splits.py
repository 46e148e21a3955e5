"""Splits patients into train, test and validation parts, read from ``splits_<k>.csv`` or made from a seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path

import numpy as np

from fedsteph.client.data.labels import Patient
from fedsteph.client.data.problems import Problem
from fedsteph.client.data.table import read_table
from fedsteph.common.errors import SplitError

_PARTS = ("train", "test", "val")


@dataclass(frozen=True)
class Split:
    """Patient IDs of one fold; train, test and val are disjoint."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    val: tuple[str, ...] = ()


def read_splits(
    folder: Path, patient_ids: Collection[str] | None, dropped: Collection[str] = ()
) -> tuple[list[Split], list[Problem]]:
    """Read ``splits_0.csv``, ``splits_1.csv``, ... with the columns train, test and optionally val.

    Args:
        patient_ids: the IDs that a split may name; None does not check them.
        dropped: IDs of patients who are left out on purpose; they are removed from every part without a warning.

    Returns:
        The splits in the order of their numbers (none without files), and all problems found.
    """
    known, problems = None if patient_ids is None else {*patient_ids}, list[Problem]()
    numbered: dict[int, Path] = {}
    for path in sorted(folder.glob("splits_*.csv")):
        if number := re.fullmatch(r"splits_(0|[1-9][0-9]*)\.csv", path.name):
            numbered[int(number[1])] = path
        else:
            problems.append(_error(path, "has no plain number in its name", "Call it splits_0.csv, or so"))
    gap = next(number for number in count() if number not in numbered)
    if gap < len(numbered):
        what = "is missing, and splits are numbered from 0 without a gap"
        problems.append(_error(folder / f"splits_{gap}.csv", what, "Add it or rename the others"))
    splits: list[Split] = []
    tested: dict[str, Path] = {}
    for _, path in sorted(numbered.items()):
        try:
            split = _read_split(path, {*dropped})
        except SplitError as error:
            problems.append(Problem.of(error))
            continue
        problems += _check(path, split, known)
        if again := [key for key in split.test if key in tested]:
            what = f"tests patients again: {len(again)} (first: '{again[0]}', in {tested[again[0]].name} too)"
            remedy = "Test each patient once, or mind that the folds' results are not independent"
            problems.append(Problem("warning", str(path), what, remedy))
        tested.update(dict.fromkeys(split.test, path))
        splits.append(split)
    return splits, problems


def make_splits(patients: Sequence[Patient], n_folds: int, seed: int) -> list[Split]:
    """Make a stratified k-fold cross-validation: each patient is tested once, and events are spread evenly.

    The folds depend on the patients and the seed, not on the order of the patients. The number of patients
    per fold differs by at most one, and so does the number of events.

    Raises:
        SplitError: fewer than 2 folds, fewer patients than folds, or a negative seed.
    """
    if n_folds < 2:
        raise SplitError(f"{n_folds} folds cannot be made", remedy="Ask for 2 folds or more")
    if len(patients) < n_folds:
        what = f"{len(patients)} patients cannot be split into {n_folds} folds"
        raise SplitError(what, remedy="Ask for fewer folds or add patients")
    if seed < 0:
        raise SplitError(f"the seed {seed} is negative", remedy="Use a seed of 0 or more")
    rng = np.random.default_rng(seed)
    strata = [sorted(patient.id for patient in patients if patient.e == e) for e in (1, 0)]
    # The second stratum continues where the first one ended, which keeps the fold sizes even.
    dealt = [stratum[i] for stratum in strata for i in rng.permutation(len(stratum))]
    folds = [sorted(dealt[k::n_folds]) for k in range(n_folds)]
    return [Split(tuple(sorted({*dealt} - {*test})), tuple(test)) for test in folds]


def _read_split(path: Path, dropped: set[str]) -> Split:
    table = read_table(path, SplitError)
    table.require(("train", "test"), "A split has the columns train and test, and perhaps val")
    if unknown := [name for name in table.columns if name not in (*_PARTS, "Unnamed: 0")]:
        raise SplitError(f"has the unknown column '{unknown[0]}'", where=path, remedy="Keep train, test and val only")
    parts = {part: [row[part] for _, row in table.rows if row.get(part)] for part in _PARTS}
    return Split(**{part: tuple(i for i in ids if i not in dropped) for part, ids in parts.items()})


def _check(path: Path, split: Split, known: set[str] | None) -> list[Problem]:
    problems: list[Problem] = []
    parts = {part: getattr(split, part) for part in _PARTS}
    for one, other in combinations(_PARTS, 2):
        if both := sorted({*parts[one]} & {*parts[other]}):
            what = f"patients in both {one} and {other}: {len(both)} (first: '{both[0]}')"
            problems.append(_error(path, what, "Keep each patient in one part only"))
    for part, ids in parts.items():
        if not ids and part != "val":
            problems.append(_error(path, f"has no patient in {part}", "Add some or remove the file"))
        if len({*ids}) < len(ids):
            twice = sorted(key for key, times in Counter(ids).items() if times > 1)
            what = f"patients more than once in {part}: {len(twice)} (first: '{twice[0]}')"
            problems.append(_error(path, what, "List each patient once"))
        if known is not None and (strange := sorted({*ids} - known)):
            what = f"unknown patients in {part}: {len(strange)} (first: '{strange[0]}')"
            problems.append(_error(path, what, "Add their rows to the label table or take them out"))
    return problems


def _error(path: Path, what: str, remedy: str) -> Problem:
    return Problem("error", str(path), what, remedy)
