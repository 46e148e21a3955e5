"""Measures STEPH's training step with 12, 100 and 1,000 sources, whose vectors are memory-mapped from a file.

With 1,000 sources the file has 4.7 GB; a step reads only the K + 1 rows that a bag merges. Memory is the process's
anonymous memory (``RssAnon``), because the system can drop the mapped pages of the file at any time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.pairs import in_turn, ratio
from fedsteph.simulations.bench.steps import BAGS, step
from fedsteph.simulations.memory import looking, memory_of

_LOOK_EVERY = 0.02  # seconds between two readings of the memory


def measure(numbers: Sequence[int], n_instances: int, repeats: int) -> dict[str, Any]:
    """Time steps of 16 bags with these numbers of sources in turn, and weigh what each adds to memory in bytes."""
    cohort = models.cohort_of(BAGS, n_instances)
    with TemporaryDirectory() as folder:
        rows = _mapped_rows(Path(folder) / "vectors", 1 + max(numbers))
        things = {str(n): step(models.steph(rows[: 1 + n]), cohort) for n in numbers}
        spreads, seconds = in_turn(things, repeats)
        memory = {name: _added_by(thing) for name, thing in things.items()}
    few, many = str(min(numbers)), str(max(numbers))
    return {
        "instances": n_instances,
        "seconds": {name: asdict(spread) for name, spread in spreads.items()},
        "added_anonymous_bytes": memory,
        "step_vs_fewest": ratio(seconds, many, few),
        "memory_vs_fewest": memory[many] / memory[few],
    }


def _mapped_rows(path: Path, n: int) -> torch.Tensor:
    """``n`` vectors ``(n, P)`` memory-mapped from a file, so that none is in the process's anonymous memory."""
    few = models.vectors(16)
    with path.open("wb") as file:
        for i in range(n):
            file.write(few[i % len(few)].numpy().tobytes())
    return torch.from_file(str(path), size=n * few.shape[1]).view(n, few.shape[1])


def _added_by(thing: Any) -> int:
    """Peak anonymous memory in bytes of a step that has run before, beyond that of the process between steps."""
    ctypes.CDLL(None).malloc_trim(0)  # returns memory freed by earlier steps, which would be counted otherwise
    before, seen = memory_of("RssAnon"), [0]
    with looking(lambda: seen.append(memory_of("RssAnon")), _LOOK_EVERY):
        thing()
    return max(seen) - before
