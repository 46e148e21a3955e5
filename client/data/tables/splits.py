"""Splits patients into train, test and validation parts, read from ``splits_<k>.csv`` or made from a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from fedsteph.client.data.matching import by_form, find_match, same
from fedsteph.client.data.problems import Problem
from fedsteph.client.data.settings import Rule
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.data.tables.split_files import split_files
from fedsteph.client.data.tables.table import read_table
from fedsteph.common.errors import SplitError

_PARTS = ("train", "test", "val")


@dataclass(frozen=True)
class Split:
    """Patient IDs of one fold; train, test and val are disjoint."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    val: tuple[str, ...] = ()


def read_splits(
    folder: Path,
    patient_ids: Collection[str] | None,
    dropped: Collection[str] = (),
    *,
    slides: Collection[str] = (),
    match: Collection[Rule] = (),
    within: str | None = None,
) -> tuple[list[Split], list[Problem]]:
    """Read ``splits_0.csv``, ``splits_1.csv``, ... with the columns train, test and optionally val.

    The files are those of :func:`split_files`.

    Args:
        folder: the site's folder.
        patient_ids: the IDs that a split may name; None does not check them.
        dropped: IDs of patients who are left out on purpose; they are removed from every part without a warning.
        slides: the IDs of the slides; a split that names these instead of patients is told so.
        match: rules under which two spellings of an ID are the same.
        within: the folder of the split files, relative to the site's folder or absolute; None: the site's folder.

    Returns:
        the splits in the order of their numbers (none without files), and all problems found.
    """
    known = None if patient_ids is None else {*patient_ids}
    called = by_form({*(known or ()), *dropped}, match)[0]
    files, problems = split_files(folder, within)
    splits: list[Split] = []
    tested: dict[str, Path] = {}
    for path in files:
        try:
            split = _read_split(path, {*dropped}, lambda name: called.get(same(name, match), name))
        except SplitError as error:
            problems.append(Problem.of(error))
            continue
        problems += [*_check(path, split), *_unknown(path, split, known, {*slides}, match)]
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
    rng, n_events = np.random.default_rng(seed), sum(patient.e for patient in patients)
    ids = [patient.id for patient in sorted(patients, key=lambda patient: (-patient.e, patient.id))]
    # The censored patients continue where those with an event ended, which keeps the fold sizes even.
    dealt = [ids[i] for i in (*rng.permutation(n_events), *(n_events + rng.permutation(len(ids) - n_events)))]
    folds = [sorted(dealt[k::n_folds]) for k in range(n_folds)]
    return [Split(tuple(sorted({*dealt} - {*test})), tuple(test)) for test in folds]


def _read_split(path: Path, dropped: set[str], called: Callable[[str], str]) -> Split:
    table = read_table(path, SplitError)
    table.require(("train", "test"), "A split has the columns train and test, and perhaps val")
    if unknown := [name for name in table.columns if name not in (*_PARTS, "Unnamed: 0")]:
        raise SplitError(f"has the unknown column '{unknown[0]}'", where=path, remedy="Keep train, test and val only")
    parts = {part: [called(row[part]) for _, row in table.rows if row.get(part)] for part in _PARTS}
    return Split(**{part: tuple(i for i in ids if i not in dropped) for part, ids in parts.items()})


def _check(path: Path, split: Split) -> Iterator[Problem]:
    for one, other in combinations(_PARTS, 2):
        both = {*getattr(split, one)} & {*getattr(split, other)}
        yield from _named(path, f"patients in both {one} and {other}", both, "Keep each patient in one part only")
    for part in _PARTS:
        ids = getattr(split, part)
        if not ids and part != "val":
            yield _error(path, f"has no patient in {part}", "Add some or remove the file")
        twice = {key for key, times in Counter(ids).items() if times > 1}
        yield from _named(path, f"patients more than once in {part}", twice, "List each patient once")


def _unknown(
    path: Path, split: Split, known: set[str] | None, slides: set[str], match: Collection[Rule]
) -> Iterator[Problem]:
    """Names in a split that are no patient's, with what they are instead where that can be seen."""
    strange = set() if known is None else {*split.train, *split.test, *split.val} - known
    named = strange & (slides - (known or set()))
    remedy = "Write the patients' IDs, each once: all slides of a patient belong into one part"
    yield from _named(path, "slides where patients are expected", named, remedy)
    strange -= named
    if found := find_match(strange, known or (), match):
        yield found.problem(str(path), "patients")
        strange -= {*found.pairs}
    for part in _PARTS:
        remedy = "Add their rows to the label table or take them out"
        yield from _named(path, f"unknown patients in {part}", strange & {*getattr(split, part)}, remedy)


def _named(path: Path, what: str, ids: set[str], remedy: str) -> list[Problem]:
    """One problem with the number of ``ids`` and the first of them; none without IDs."""
    return [_error(path, f"{what}: {len(ids)} (first: '{min(ids)}')", remedy)] if ids else []


def _error(path: Path, what: str, remedy: str) -> Problem:
    return Problem("error", str(path), what, remedy)
