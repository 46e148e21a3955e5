"""Splits from files are checked for leaks; splits from a seed partition the patients evenly."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from data_builders import write_csv
from each_case import each
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.data.tables.splits import Split, make_splits, read_splits
from fedsteph.common.errors import SplitError

IDS = ("A", "B", "C", "D")


def split(folder: Path, k: object, text: str) -> Path:
    path = folder / f"splits_{k}.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_files_are_no_splits(tmp_path: Path) -> None:
    assert read_splits(tmp_path, IDS) == ([], []) and read_splits(tmp_path / "absent", IDS) == ([], [])


@pytest.mark.parametrize(
    "text",
    [
        "train,test\nA,C\nB,D\n",
        ",train,test\n0,A,C\n1,B,D\n",
        "Unnamed: 0,train,test\n0,A,C\n1,B,D\n",
        "\ufefftest,train\nC,A\nD,B\n",
        "train,test,val\nA,C,\n,,\nB,D,\n",
        "train,test\nA,C\nB\n,D\n",
    ],
)
def test_what_spreadsheets_and_pandas_make_of_it_is_read(text: str, tmp_path: Path) -> None:
    split(tmp_path, 0, text)
    assert read_splits(tmp_path, IDS) == ([Split(("A", "B"), ("C", "D"))], [])


def test_validation_patients_are_in_neither_other_part(tmp_path: Path) -> None:
    split(tmp_path, 0, "train,test,val\nA,C,D\nB,,\n")
    assert read_splits(tmp_path, IDS) == ([Split(("A", "B"), ("C",), ("D",))], [])


def test_the_order_is_numeric(tmp_path: Path) -> None:
    ids = [f"P{k}" for k in range(12)]
    for k, key in enumerate(ids):
        write_csv(tmp_path / f"splits_{k}.csv", [("train", "test"), (ids[k - 1], key)])
    splits, problems = read_splits(tmp_path, ids)
    assert [split.test for split in splits] == [(key,) for key in ids] and problems == []


def test_dropped_patients_leave_the_parts(tmp_path: Path) -> None:
    split(tmp_path, 0, "train,test\nA,C\nB,D\n")
    assert read_splits(tmp_path, ("A", "B", "C"), ["D"]) == ([Split(("A", "B"), ("C",))], [])


def test_ids_are_not_checked_without_a_label_table(tmp_path: Path) -> None:
    split(tmp_path, 0, "train,test\nx,y\n")
    assert read_splits(tmp_path, None) == ([Split(("x",), ("y",))], [])


Build = Callable[[Path], object]


@pytest.mark.parametrize(
    ("build", "file", "fragment"),
    [
        (lambda f: split(f, 0, "train,test\nA,A\nB,C\n"), "splits_0.csv", "in both train and test: 1 (first: 'A'"),
        (lambda f: split(f, 0, "train,test,val\nA,C,A\n"), "splits_0.csv", "in both train and val: 1"),
        (lambda f: split(f, 0, "train,test,val\nA,C,C\n"), "splits_0.csv", "in both test and val: 1"),
        (lambda f: split(f, 0, "train,test\nA,C\nA,D\n"), "splits_0.csv", "more than once in train: 1"),
        (lambda f: split(f, 0, "train,test\nA,C\nB,C\n"), "splits_0.csv", "more than once in test: 1"),
        (lambda f: split(f, 0, "train,test\nA,X\nB,Y\n"), "splits_0.csv", "unknown patients in test: 2 (first: 'X'"),
        (lambda f: split(f, 0, "train,test\nA,\nB,\n"), "splits_0.csv", "has no patient in test"),
        (lambda f: split(f, 0, "train,test\n,A\n"), "splits_0.csv", "has no patient in train"),
        (lambda f: split(f, 0, "train,test\n"), "splits_0.csv", "has no rows"),
        (lambda f: split(f, 0, ""), "splits_0.csv", "has no rows"),
        (lambda f: split(f, 0, "train\nA\n"), "splits_0.csv", "has no column 'test'; it has 'train'"),
        (lambda f: split(f, 0, "train,test,tset\nA,B,C\n"), "splits_0.csv", "the unknown column 'tset'"),
        (lambda f: split(f, 0, "train,test,test\nA,B,C\n"), "splits_0.csv", "'test' more than once"),
        (lambda f: split(f, 0, "train;test\nA;S2\n"), "splits_0.csv", "slides where patients are expected: 1"),
        (lambda f: split(f, 0, 'train,test\n"A,B\n'), "splits_0.csv", "is not CSV"),
        (lambda f: split(f, 0, "train,test\nA,B,C\n"), "splits_0.csv:2", "has 3 cells and 2 columns"),
        (lambda f: split(f, 2, "train,test\nA,B\n"), "splits_0.csv", "is missing"),
        (lambda f: split(f, 10**12, "train,test\nA,B\n"), "splits_0.csv", "is missing"),
        (lambda f: split(f, "a", "train,test\nA,B\n"), "splits_a.csv", "no plain number"),
        (lambda f: split(f, "00", "train,test\nA,B\n"), "splits_00.csv", "no plain number"),
        (lambda f: (f / "splits_0.csv").mkdir(), "splits_0.csv", "cannot be read"),
        (lambda f: (f / "splits_0.csv").write_bytes(b"\xff"), "splits_0.csv", "is not UTF-8"),
    ],
)
def test_a_bad_split_is_named(build: Build, file: str, fragment: str, tmp_path: Path) -> None:
    build(tmp_path)
    _, problems = read_splits(tmp_path, IDS, slides=("S1", "S2"))
    assert [(p.severity, p.where) for p in problems] == [("error", str(tmp_path / file))]
    assert fragment in problems[0].what and problems[0].remedy


def test_what_clam_writes_beside_a_split_is_passed_over_and_numbers_may_begin_with_1(tmp_path: Path) -> None:
    split(tmp_path, 1, "train,test\nA,B\n")
    for end in ("bool", "descriptor"):
        (tmp_path / f"splits_1_{end}.csv").write_text(",train,val,test\nA,True,False,False\n")
    assert read_splits(tmp_path, IDS) == ([Split(("A",), ("B",))], [])


@pytest.mark.parametrize(
    "name",
    [
        "splits/splits_0.csv",
        "split_0.csv",
        "fold_1.csv",
        "splits/task_1/splits_0.csv",
        "splits/k=0/train.csv",
        "splits.json",
    ],
)
def test_a_split_that_is_not_used_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("train,test\nA,B\n")
    splits, [problem] = read_splits(tmp_path, IDS)
    assert (splits, problem.severity, problem.where) == ([], "warning", str(tmp_path / name))
    assert "not used" in problem.what and "made from a seed" in problem.remedy


def test_patients_in_another_spelling_are_one_problem_and_a_rule_mends_it(tmp_path: Path) -> None:
    split(tmp_path, 0, "train,test\n12.0,1015.0\n7.0,8.0\n")
    ids = ["0012", "1015", "007", "0008"]
    _, [problem] = read_splits(tmp_path, ids)
    assert problem.what.startswith("all 4 patients") and problem.match == ("point_zero", "zeros")
    assert read_splits(tmp_path, ids, match=problem.match) == ([Split(("0012", "007"), ("1015", "0008"))], [])


def test_a_patient_tested_twice_is_a_warning(tmp_path: Path) -> None:
    for k in range(2):
        split(tmp_path, k, "train,test\nA,C\nB,D\n")
    splits, [problem] = read_splits(tmp_path, IDS)
    assert len(splits) == 2 and problem.severity == "warning"
    assert problem.what == "tests patients again: 2 (first: 'C', in splits_0.csv too)"


def cohort(events: list[bool]) -> list[Patient]:
    return [Patient(f"P{i:03d}", 100.0, int(e), (f"S{i}",)) for i, e in enumerate(events)]


@given(data=st.data(), events=st.lists(st.booleans(), min_size=2, max_size=60), seed=st.integers(0, 2**63))
def test_folds_partition_the_patients_evenly(data: st.DataObject, events: list[bool], seed: int) -> None:
    patients = cohort(events)
    n_folds = data.draw(st.integers(2, len(patients)))
    splits = make_splits(patients, n_folds, seed)
    everyone = sorted(patient.id for patient in patients)
    assert len(splits) == n_folds and sorted(key for split in splits for key in split.test) == everyone
    for split in splits:
        assert sorted(split.train + split.test) == everyone and split.train and split.val == ()
    e = {patient.id: patient.e for patient in patients}
    for counts in ([len(s.test) for s in splits], [sum(e[i] for i in s.test) for s in splits]):
        assert max(counts) - min(counts) <= 1


def test_folds_depend_on_the_seed_and_not_on_the_order() -> None:
    patients = cohort([i % 3 == 0 for i in range(40)])
    shuffled = random.Random(1).sample(patients, len(patients))
    assert make_splits(patients, 5, 42) == make_splits(shuffled, 5, 42)
    assert make_splits(patients, 5, 42) != make_splits(patients, 5, 43)


@each(
    ("n", "n_folds", "seed", "fragment"),
    [
        (10, 1, 0, "1 folds cannot be made"),
        (10, 0, 0, "0 folds cannot be made"),
        (10, -3, 0, "-3 folds cannot be made"),
        (3, 4, 0, "3 patients cannot be split into 4 folds"),
        (0, 2, 0, "0 patients cannot be split into 2 folds"),
        (10, 2, -1, "the seed -1 is negative"),
    ],
)
def test_impossible_folds_are_refused(n: int, n_folds: int, seed: int, fragment: str) -> None:
    with pytest.raises(SplitError, match=fragment) as caught:
        make_splits(cohort([True] * n), n_folds, seed)
    assert caught.value.remedy


def test_another_folder_of_splits_is_read_under_any_of_the_usual_names(tmp_path: Path) -> None:
    folder = tmp_path / "splits" / "task"
    folder.mkdir(parents=True)
    (folder / "fold_1.csv").write_text("train,test\nA,B\n")
    (folder / "fold_1_bool.csv").write_text("x\n")
    assert read_splits(tmp_path, IDS, within="splits/task") == ([Split(("A",), ("B",))], [])
    (folder / "splits_1.csv").write_text("train,test\nA,B\n")
    [problem] = read_splits(tmp_path, IDS, within="splits/task")[1]
    assert "a split of the same number as fold_1.csv" in problem.what
    for absent, said in (("splits", "holds no split file"), ("nowhere", "there is no such folder")):
        splits, [problem] = read_splits(tmp_path, IDS, within=absent)
        assert splits == [] and problem.severity == "error" and said in problem.what
