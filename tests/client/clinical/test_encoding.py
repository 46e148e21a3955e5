"""Clinical values as numbers: the rules come from training patients alone."""

from __future__ import annotations

import numpy as np

from fedsteph.client.clinical.encoding import Categories, Encoding, Gaps, Measured
from fedsteph.client.data.tables.clinical_table import ClinicalValues

KINDS = {"age": "numeric", "stage": ("I", "II", "III"), "sex": "category"}


def values(*rows) -> ClinicalValues:
    return ClinicalValues(KINDS, {str(i): row for i, row in enumerate(rows)})


TRAINING = values((50.0, 0.0, "F"), (60.0, None, "F"), (80.0, 2.0, "M"), (90.0, 1.0, None))


def test_the_rules_are_those_of_the_training_patients():
    found = Encoding.of(TRAINING)
    assert found.names == ("age", "stage", "stage missing", "sex M")
    spreads = np.std([50, 60, 80, 90]), np.std([0, 1, 2, 1])
    assert found.measured == (
        Measured("age", 70.0, 70.0, spreads[0], False),
        Measured("stage", 1.0, 1.0, spreads[1], True),
    )
    assert found.categories == (Categories("sex", "F", ("M",)),)
    expected = [[-20 / spreads[0], -1 / spreads[1], 0, 0], [-10 / spreads[0], 0, 1, 0]]
    np.testing.assert_allclose(found.numbers(TRAINING)[:2], expected)
    assert found.numbers(TRAINING)[:, 3].tolist() == [0, 0, 1, 0]


def test_a_new_patient_is_encoded_alone_and_gaps_are_counted():
    found = Encoding.of(TRAINING)
    new = values((None, None, "X"), (70.0, 1.0, "F"), (None, 1.0, None))
    assert found.numbers(new).tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.gaps(new) == {"age": Gaps(2, 0), "stage": Gaps(1, 0), "sex": Gaps(1, 1)}
    one = values((None, None, "X"))
    np.testing.assert_array_equal(found.numbers(one)[0], found.numbers(new)[0])


def test_columns_that_tell_nobody_apart_are_left_out():
    found = Encoding.of(values((50.0, None, "F"), (50.0, None, "F")))
    assert found.names == () and found.numbers(TRAINING).shape == (4, 0)
