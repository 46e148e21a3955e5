"""Freed memory is used again without asking the system for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from fedsteph.common.host.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"1" * 12_000_000 for _ in range(10)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
print(faults(), faults())
"""
PAGES = 10 * 12_000_000 / 4096


def pages_of_two_steps(how: str) -> list[int]:
    run = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return [int(word) for word in run.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_what_a_step_frees_the_next_step_has_without_a_page_fault():
    first, second = pages_of_two_steps("keep")
    assert first > 0.9 * PAGES and second < 0.1 * PAGES
    assert pages_of_two_steps("as it is")[1] > 0.9 * PAGES
