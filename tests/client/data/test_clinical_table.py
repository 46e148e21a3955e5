"""Clinical values beside the outcomes: what is read, what is missing, and what is named as a mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsteph.client.data.settings import Kind
from fedsteph.client.data.tables.clinical_table import ClinicalValues, read_clinical
from fedsteph.common.errors import LabelError

KINDS: dict[str, Kind] = {"age": "numeric", "sex": "category", "grade": ("none", "low", "high")}


def read(tmp_path: Path, *rows: str, head: str = "id,age,sex,grade", patients=("A", "B", "C")):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    problems = []
    return read_clinical(path, KINDS, "id", patients, problems), [problem.line for problem in problems]


def test_numbers_levels_and_categories_with_what_is_missing(tmp_path):
    found, problems = read(tmp_path, "A,67,MALE,high", "B,,[Not Available],none", "X,old,?,?", "C,1e1,unknown,")
    assert problems == []
    np.testing.assert_array_equal(found.of("ABC").measured("age"), [67, np.nan, 10])
    np.testing.assert_array_equal(found.of("CBA").measured("grade"), [np.nan, 0, 2])  # none is a level, not missing
    assert found.of("ABCD").categories("sex").tolist() == ["MALE", "", "", ""]
    told = repr(found).partition(" at 0x")[0]  # the address may have any digits
    assert told.startswith("<") and "67" not in told  # no log tells a value


def test_a_patient_has_one_value_and_a_row_without_it_does_not_matter(tmp_path):
    found, problems = read(tmp_path, "A,67,MALE,high", "A,,MALE,", "B,50,,low", "B,51,,low")
    assert found.of("A").measured("age").tolist() == [67] and found.of("A").measured("grade").tolist() == [2]
    (line,) = problems
    assert line.startswith(f"{tmp_path / 'labels.csv'}:5: the patient 'B' has another 'age' than in line 4.")


def test_decimal_commas_are_read_as_in_times(tmp_path):
    found, problems = read(tmp_path, "A;67,5;M;low", "B;6,25;M;low", head="id;age;sex;grade")
    assert problems == [] and found.of("AB").measured("age").tolist() == [67.5, 6.25]


def test_a_mistake_is_named_with_file_row_column_and_remedy(tmp_path):
    _, problems = read(tmp_path, "A,old,MALE,medium", "B,inf,MALE,LOW")
    where = tmp_path / "labels.csv"
    assert [line.partition(".csv:")[2][:44] for line in problems] == [
        "2: 'age' is 'old', not a number. Write a num",
        "2: 'grade' is 'medium', not one of none, low",
        "3: 'age' is 'inf', not a number. Write a num",
        "3: 'grade' is 'LOW', not one of none, low, h",
    ]
    assert problems[1].startswith(str(where)) and "mend data.clinical.grade in site.yaml" in problems[1]
    with pytest.raises(LabelError, match=r"has no column 'sex'; it has 'id', 'age', 'grade'.*data\.clinical"):
        read(tmp_path, "A,1,low", head="id,age,grade")


def test_of_a_patient_who_is_not_in_the_table_all_is_missing():
    values = ClinicalValues(KINDS, {}).of(["Z"])
    assert np.isnan(values.measured("age")).all() and values.categories("sex").tolist() == [""]
