"""Damaged HDF5 files of four layouts: each is refused by name, or its content is what its bytes of values say.

``python tests/builders/hdf5_mutants.py --n 20000`` reads more of them.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hdf5_mutants import originals, outcome, outcomes

from fedsteph.client.data.hdf5 import guarded_headers

N = 160


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(guarded_headers, "CPU_SECONDS", 1)


def test_whole_files_are_read(tmp_path):
    for name, original in originals().items():
        path = tmp_path / name
        path.write_bytes(original.content)
        assert outcome(path, original, original.content) == "same"


def test_no_mutant_crashes_hangs_or_is_taken_for_something_else(tmp_path):
    found = Counter(what for _, _, what in outcomes(tmp_path, 10_000, N))
    assert found.total() == N
    # What a file says of the encoder has no checksum, as little as values have that no filter guards.
    assert not found["other"] and not found["crashed"] and found["refused"] > N // 4
