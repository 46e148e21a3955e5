"""A few mutants of every kind of own file; ``python tests/fuzz_own_files.py`` reads 20,000 of each."""

from __future__ import annotations

from pathlib import Path

from fuzz_own_files import fuzz, kinds


def test_mutants_of_own_files_are_refused_or_read_as_written(tmp_path: Path) -> None:
    for kind in kinds(tmp_path):
        assert fuzz(kind, tmp_path, 150, 1).total() == 150
