"""The C-index of two methods within subgroups of a target's test patients, with 95% intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.client.evaluation.side_by_side import Number
from fedsteph.common.model.concordance import Pairs, pairs
from fedsteph.common.model.resampling import interval_95, resampled_folds

LEAST_PATIENTS, LEAST_EVENTS, LEAST_PAIRS = 20, 5, 10
OTHERS = "others"  # the small groups of one column, together
RESAMPLES, _SEED = 1000, 0
_BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}")


@dataclass(frozen=True, repr=False)  # a text of it would tell patients' values
class Column:
    """A column by which patients are grouped; ``groups`` are in the order of the page."""

    name: str
    groups: tuple[str, ...]
    place: np.ndarray  # (n,) of each patient's group in ``groups``; -1: missing


@dataclass(frozen=True, repr=False)
class Ranked:
    """Test patients, each once, and their risks under the models of the folds that test them."""

    fold: np.ndarray  # (n,)
    times: np.ndarray  # (n,) days
    events: np.ndarray  # (n,), 1 = event
    risk: Mapping[str, np.ndarray]  # (n,) by method; the last method is compared with the first


@dataclass(frozen=True)
class Subgroup:
    """One group, and how well each method ranks its patients."""

    column: str
    name: str
    n: int
    n_events: int
    c_index: Mapping[str, Number]  # by method
    difference: Number  # the last method minus the first, on the same resamples


def columns_of(values: ClinicalValues) -> list[Column]:
    """The columns of the test patients' values, and TCGA's contributing site if every ID is a barcode of TCGA.

    Numbers are cut into thirds. A column in which all known patients are of one group is left out.
    """
    found = [_column(values, name) for name in values.kinds]
    matches = [_BARCODE.match(patient) for patient in values.rows]
    found.append(_of_texts("contributing site", [match[1] for match in matches if match and all(matches)]))
    return [column for column in found if len({*column.place.tolist()} - {-1}) > 1]


def _column(values: ClinicalValues, name: str) -> Column:
    kind = values.kinds[name]
    if kind == "category":
        return _of_texts(name, values.categories(name).tolist())
    measured = values.measured(name)
    missing = np.isnan(measured)
    if isinstance(kind, tuple):
        return Column(name, kind, np.where(missing, -1, np.nan_to_num(measured)).astype(int))
    if missing.all():
        return Column(name, (), np.full(len(measured), -1))
    low, high = np.quantile(measured[~missing], (1 / 3, 2 / 3), method="lower")
    groups = (f"up to {low:g}", f"above {low:g}, up to {high:g}", f"above {high:g}")
    place = np.where(missing, -1, (measured > low).astype(int) + (measured > high))
    return Column(name, groups, place)


def _of_texts(name: str, texts: Sequence[str]) -> Column:
    groups = tuple(sorted({*texts} - {""}))
    known = {group: i for i, group in enumerate(groups)}
    return Column(name, groups, np.array([known.get(text, -1) for text in texts], dtype=int))


def subgroups(tested: Ranked, column: Column) -> tuple[list[Subgroup], list[str]]:
    """The groups of a column that are large enough, and a sentence on each kind of patients who are left out.

    Groups of fewer than 20 patients, 5 events or 10 comparable pairs are judged together; if they are too small even
    so, they are left out.
    """
    members = {name: column.place == i for i, name in enumerate(column.groups)}
    judged = {name: judge(tested, who, column.name, name) for name, who in members.items()}
    small = [members[name] for name, group in judged.items() if group is None]
    rest = np.logical_or.reduce(small) if small else np.zeros(len(tested.fold), dtype=bool)
    together = judge(tested, rest, column.name, OTHERS) if len(small) > 1 else None
    lost = {
        "without a value": int((column.place < 0).sum()),
        "in groups that are too small": 0 if together else int(rest.sum()),
    }
    left_out = [f"{column.name}: patients {why} are left out ({n})." for why, n in lost.items() if n]
    return [group for group in (*judged.values(), together) if group is not None], left_out


def judge(tested: Ranked, members: np.ndarray, column: str, name: str) -> Subgroup | None:
    """Each method's C-index among the patients ``members (n,)`` bool; None if they are too few.

    Patients are compared within folds alone, because each fold has models of its own; folds weigh by their number of
    comparable pairs.
    """
    n, n_events = int(members.sum()), int(tested.events[members].sum())
    parts = [members & (tested.fold == fold) for fold in np.unique(tested.fold)]
    of_folds = {
        method: [pairs(risk[part], tested.times[part], tested.events[part]) for part in parts]
        for method, risk in tested.risk.items()
    }
    weights = np.array([one.n_comparable for one in next(iter(of_folds.values())) if one.n_comparable], dtype=float)
    if n < LEAST_PATIENTS or n_events < LEAST_EVENTS or weights.sum() < LEAST_PAIRS:
        return None
    drawn = resampled_folds(list(of_folds.values()), resamples=RESAMPLES, seed=_SEED)
    resampled = [_weighted(values, weights) for values in drawn]
    values = [_whole(folds) for folds in of_folds.values()]
    numbers = [Number(value, interval_95(draws)) for value, draws in zip(values, resampled, strict=True)]
    gap = Number(values[-1] - values[0], interval_95(resampled[-1] - resampled[0]))
    return Subgroup(column, name, n, n_events, dict(zip(of_folds, numbers, strict=True)), gap)


def _whole(folds: Sequence[Pairs]) -> float:
    """The share of concordant pairs among the comparable pairs of all folds."""
    return sum(one.concordant for one in folds) / sum(one.n_comparable for one in folds)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Per resample the weighted mean over folds of ``(n_folds, resamples)``; a fold without a pair is left out."""
    defined = np.isfinite(values) * weights[:, None]
    total = defined.sum(axis=0)
    mean: np.ndarray = np.divide(
        (np.nan_to_num(values) * defined).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0
    )
    return mean
