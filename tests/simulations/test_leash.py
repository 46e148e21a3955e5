"""The leash: a program that ends by itself ends it too, with its own exit code, while somebody still holds on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("program", "code"), [("true", 0), ("false", 1)])
def test_a_program_that_ends_by_itself(program, code):
    leash = [sys.executable, "-m", "simulations.leash", program]
    with subprocess.Popen(leash, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            assert process.wait(timeout=60) == code  # the pipe is open still
        finally:
            process.kill()
        assert process.stderr.read() == b""
