"""No cell of a table that we write is a formula, numbers stay numbers, and no two texts become the same."""

from __future__ import annotations

import csv
import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsteph.common.report.csv_text import csv_text

ATTACKS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=",
    "+",
    "-x",
    '=HYPERLINK("http://x")',
]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_no_text_is_a_formula() -> None:
    for row in cells(csv_text([ATTACKS])):
        assert row == [f"'{text}".replace("\r", "\n") for text in ATTACKS]


def test_numbers_stay_numbers() -> None:
    values = [
        -1,
        -0.5,
        1e-300,
        np.float64(-0.1),
        np.float32(0.1),
        np.int64(-3),
        None,
        "-0.5",
        "+3",
        "-1.2e-5",
        "-1,234",
        "-",
    ]
    expected = ["-1", "-0.5", "1e-300", "-0.1", "0.1", "-3", "", "-0.5", "+3", "-1.2e-5", "-1,234", "-"]
    assert cells(csv_text([values])) == [expected]
    assert csv_text([[1 / 3, np.float64(2e9 / 3), 7]], 9) == "0.333333333,666666667,7\n"


@given(st.lists(st.text(alphabet="'=+-@\ta1", max_size=4), min_size=2, max_size=20, unique=True))
def test_texts_stay_different(texts: list[str]) -> None:
    [row] = cells(csv_text([texts]))
    assert len({*row}) == len(texts)
