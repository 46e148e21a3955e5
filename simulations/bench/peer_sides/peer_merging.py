"""Merging of task vectors into one: fedsteph's functions and PEFT's (``peft.utils.merge_utils``), on the same numbers.

They agree but for three points. PEFT keeps ``int(density n)`` of a vector's numbers, and fedsteph the nearest whole
number. Where trimmed values cancel exactly, PEFT elects the positive sign, and fedsteph none: the result is 0 there.
Where the smallest magnitudes to keep are equal, fedsteph keeps them all, and PEFT some.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from fedsteph.client.methods.rules import ties_mean
from fedsteph.common.vector.task_vector import TaskVector, cut, mean
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.gpu_checks import apart

SCALE = 0.3  # of the sum, in task arithmetic
DENSITY = 0.2  # share of a vector's numbers that TIES keeps
_M0 = "0" * 64


def own_merges(rows: Tensor) -> dict[str, Callable[[], TaskVector]]:
    """fedsteph's merges of the rows ``(n, P)``, by name."""
    vectors = [TaskVector(models.SIZES, _M0, cut(row, models.SIZES)) for row in rows.clone()]
    return {
        "averaging": lambda: mean(vectors),
        "task arithmetic": lambda: SCALE * len(vectors) * mean(vectors),
        "TIES": lambda: ties_mean(vectors, DENSITY),
    }


def peft_merges(rows: Tensor) -> Mapping[str, Callable[[], Tensor]]:
    """PEFT's merges of the rows ``(n, P)``, by name, to ``(P,)``."""
    peft, tensors, n = _merge_utils(), list(rows.clone()), len(rows)
    kept = round(DENSITY * rows.shape[1])
    density = (kept + 0.5) / rows.shape[1]  # as many numbers as fedsteph keeps
    return {
        "averaging": lambda: peft.task_arithmetic(tensors, torch.full((n,), 1 / n)),
        "task arithmetic": lambda: peft.task_arithmetic(tensors, torch.full((n,), SCALE)),
        "TIES": lambda: peft.ties(tensors, torch.ones(n), density),
    }


def difference(own: Tensor, peer: Tensor) -> tuple[float, int]:
    """The largest difference of two merges ``(P,)``, relative to the largest number; how many numbers it leaves out.

    Left out is where fedsteph elected no sign and PEFT one: a few numbers, because values seldom cancel exactly.
    """
    cancelled = (own == 0) & (peer != 0)
    return apart(own, torch.where(cancelled, 0.0, peer)), int(cancelled.sum())


def _merge_utils() -> ModuleType:
    """PEFT's file of merging functions; all of PEFT would load transformers, which takes seconds and memory."""
    found = importlib.util.find_spec("peft")
    assert found is not None and found.origin is not None
    path = Path(found.origin).parent / "utils" / "merge_utils.py"
    spec = importlib.util.spec_from_file_location("peft_merge_utils", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
