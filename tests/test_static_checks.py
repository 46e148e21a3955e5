"""Style, types and the website, by the tools that a developer runs by hand."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKS = ("ruff check .", "ruff format --check .", "mypy", "mkdocs build --strict --quiet")


@pytest.mark.parametrize("check", CHECKS)
def test_it_finds_nothing(check):
    name, *words = check.split()
    ran = [str(Path(sysconfig.get_path("scripts")) / name), *words]
    done = subprocess.run(ran, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
