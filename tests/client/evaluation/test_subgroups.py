"""Subgroups: who is in which, the C-index of each against a plain count of pairs, and who is left out."""

from __future__ import annotations

import numpy as np
import pytest

from fedsteph.client.data.tables.clinical_table import ClinicalValues
from fedsteph.client.evaluation.subgroups import Column, Ranked, columns_of, judge, subgroups

N = 120


@pytest.fixture
def tested() -> Ranked:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=N)
    risk = {"local": truth + rng.normal(size=N), "enhanced": truth}
    return Ranked(np.arange(N) % 3, rng.exponential(np.exp(-truth)), rng.integers(0, 2, N), risk)


def plain_c(tested: Ranked, method: str, members: np.ndarray) -> float:
    """Pairs within folds, counted one by one; times and risks have no ties."""
    risk, good, n = tested.risk[method], 0, 0
    for i in np.flatnonzero(members & (tested.events == 1)):
        for j in np.flatnonzero(members & (tested.fold == tested.fold[i]) & (tested.times > tested.times[i])):
            n, good = n + 1, good + (risk[i] > risk[j])
    return good / n


def test_the_c_index_is_the_share_of_concordant_pairs_within_folds_and_in_its_interval(tested):
    members = np.arange(N) < 70
    found = judge(tested, members, "stage", "II")
    assert found is not None and (found.n, found.n_events) == (70, int(tested.events[:70].sum()))
    for method, number in found.c_index.items():
        assert number.value == pytest.approx(plain_c(tested, method, members))
        low, high = number.interval_95
        assert low < number.value < high and high - low < 0.4
    low, high = found.difference.interval_95
    assert low < found.difference.value < high
    assert found.difference.value == pytest.approx(found.c_index["enhanced"].value - found.c_index["local"].value)


def test_small_groups_are_judged_together_and_one_alone_is_left_out_with_its_number(tested):
    place = np.repeat([0, 1, 2, -1], [60, 15, 40, 5])
    groups, left_out = subgroups(tested, Column("stage", ("I", "II", "III"), place))
    assert [group.name for group in groups] == ["I", "III"]
    assert left_out == [
        "stage: patients without a value are left out (5).",
        "stage: patients in groups that are too small are left out (15).",
    ]
    groups, left_out = subgroups(tested, Column("site", tuple("abcdefgh"), np.arange(N) // 15))
    assert [(group.name, group.n) for group in groups] == [("others", N)] and left_out == []


def test_few_events_or_patients_are_not_judged(tested):
    assert judge(tested, np.arange(N) < 19, "a", "b") is None
    quiet = Ranked(tested.fold, tested.times, (np.arange(N) < 4).astype(int), tested.risk)
    assert judge(quiet, np.ones(N, dtype=bool), "a", "b") is None


def test_columns_keep_the_order_of_their_levels_and_numbers_are_cut_into_thirds():
    kinds = {"stage": ("low", "high"), "age": "numeric", "sex": "category", "same": "category"}
    rows = {f"P{i}": (float(i % 2), float(i), "MF"[i % 2], "x") for i in range(9)} | {"P9": (None,) * 4}
    found = {column.name: column for column in columns_of(ClinicalValues(kinds, rows))}
    assert [*found] == ["stage", "age", "sex"], "a column of one group tells nothing, and no ID is of TCGA"
    assert found["stage"].groups == ("low", "high") and found["sex"].groups == ("F", "M")
    assert found["age"].groups == ("up to 2", "above 2, up to 5", "above 5")
    assert found["age"].place.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, -1] and found["sex"].place[-1] == -1


def test_the_contributing_site_is_read_from_tcga_s_barcodes_if_all_are_such():
    ids = ["TCGA-2F-A9KO", "TCGA-4Z-AA7R", "TCGA-2F-A9KQ-01"]
    (column,) = columns_of(ClinicalValues({}, dict.fromkeys(ids, ())))
    assert (column.name, column.groups, column.place.tolist()) == ("contributing site", ("2F", "4Z"), [0, 1, 0])
    assert columns_of(ClinicalValues({}, dict.fromkeys([*ids, "TCGA-2F"], ()))) == []
