"""Turns clinical values into numbers for a Cox model, by rules that are fitted on training patients alone.

A number, or the place of a level in its order, is standardised; where it is missing, it is the training patients'
median, and if it was missing for some of them, one more number says so (1: missing). A category is a 0 or 1 for each
level but the most frequent one; where it is missing, or was not seen in training, all of them are 0. A column that is
the same for all training patients, or missing for all, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedsteph.client.data.tables.clinical_table import ClinicalValues


@dataclass(frozen=True)
class Measured:
    """A numeric or ordinal column."""

    column: str
    median: float
    mean: float  # with the median for missing values
    spread: float  # likewise, the standard deviation
    with_missing: bool  # whether a second number says that the value is missing


@dataclass(frozen=True)
class Categories:
    """A column of categories."""

    column: str
    usual: str  # the most frequent level
    others: tuple[str, ...]  # a number, 0 or 1, for each


@dataclass(frozen=True)
class Gaps:
    """Patients whose value of a column is missing, or is a category that no training patient had."""

    missing: int
    unseen: int


@dataclass(frozen=True)
class Encoding:
    """The columns that are used, and how."""

    measured: tuple[Measured, ...]
    categories: tuple[Categories, ...]

    @classmethod
    def of(cls, training: ClinicalValues) -> Encoding:
        """Fit the rules on the training patients."""
        measured = (_measured(c, training.measured(c)) for c, kind in training.kinds.items() if kind != "category")
        categories = (_categories(c, training.categories(c)) for c, k in training.kinds.items() if k == "category")
        return cls(tuple(filter(None, measured)), tuple(filter(None, categories)))

    @property
    def names(self) -> tuple[str, ...]:
        """What each number is, as in ``age``, ``age missing``, ``sex MALE``."""
        return tuple(self._names())

    def _names(self) -> Iterator[str]:
        for one in self.measured:
            yield one.column
            if one.with_missing:
                yield f"{one.column} missing"
        for each in self.categories:
            yield from (f"{each.column} {level}" for level in each.others)

    def numbers(self, values: ClinicalValues) -> np.ndarray:
        """The numbers of all patients, ``(n_patients, n_names)`` float64, all finite."""
        found = []
        for one in self.measured:
            column = values.measured(one.column)
            missing = np.isnan(column)
            found.append((np.where(missing, one.median, column) - one.mean) / one.spread)
            if one.with_missing:
                found.append(missing.astype(np.float64))
        for each in self.categories:
            texts = values.categories(each.column)
            found += [(texts == level).astype(np.float64) for level in each.others]
        return np.stack(found, axis=1) if found else np.empty((len(values.rows), 0))

    def gaps(self, values: ClinicalValues) -> dict[str, Gaps]:
        """Of each column that is used, how many patients have no value, or an unseen one."""
        found = {one.column: Gaps(int(np.isnan(values.measured(one.column)).sum()), 0) for one in self.measured}
        for each in self.categories:
            texts = values.categories(each.column)
            unseen = ~np.isin(texts, ["", each.usual, *each.others])
            found[each.column] = Gaps(int((texts == "").sum()), int(unseen.sum()))
        return found


def _measured(column: str, values: np.ndarray) -> Measured | None:
    missing = np.isnan(values)
    if missing.all():
        return None
    median = float(np.median(values[~missing]))
    filled = np.where(missing, median, values)
    spread = float(filled.std())
    return Measured(column, median, float(filled.mean()), spread, bool(missing.any())) if spread > 0 else None


def _categories(column: str, texts: np.ndarray) -> Categories | None:
    levels, counts = np.unique(texts[texts != ""], return_counts=True)
    if len(levels) < 2:
        return None
    usual = str(levels[np.argmax(counts)])
    return Categories(column, usual, tuple(str(level) for level in levels if level != usual))
