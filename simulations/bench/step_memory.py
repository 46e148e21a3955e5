"""The most memory that one training step needs, each measured in a process of its own.

``python -m simulations.bench.step_memory steph 16 10000`` is what the measuring process runs: it makes each bag when it
is asked for, as if it were read from a disk, takes one step, and prints its high-water marks in bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from client.batch import Batch
from client.objective import backward
from common.config import TrainingConfig
from common.errors import EngineError
from simulations.bench import models

_GONE_WRONG = "A step that measures memory failed"


def measure(what: str, n_bags: int, n_instances: int) -> dict[str, int]:
    """Bytes before and at the peak of one step.

    Args:
        what: ``steph``, ``abmil`` or ``plain``.

    Raises:
        EngineError: the process failed, for want of memory perhaps.
    """
    words = [sys.executable, "-m", "simulations.bench.step_memory", what, str(n_bags), str(n_instances)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(_GONE_WRONG, where=what, details=done.stderr[-2000:])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _high_water() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _bag(n_instances: int, i: int) -> torch.Tensor:
    return torch.randn(n_instances, models.SIZES.width, generator=torch.Generator().manual_seed(i))


def _ours(model: torch.nn.Module, n_bags: int, n_instances: int) -> None:
    def stacks() -> Iterator[tuple[list[int], Batch]]:
        for i in range(n_bags):
            yield [i], models.stack_of_one(_bag(n_instances, i))

    backward(models.forward_of(model), stacks, n_bags, TrainingConfig())


def _plain(model: torch.nn.Module, n_bags: int, n_instances: int) -> None:
    bags = [_bag(n_instances, i) for i in range(n_bags)]
    models.plain_module().step_loss(model, bags, [1] * n_bags, [1] * n_bags).backward()


def _main(what: str, n_bags: int, n_instances: int) -> None:
    rows = models.vectors(1 + models.SOURCES)
    if what == "plain":
        model, run = models.plain_steph(rows), _plain
    else:
        model, run = (models.abmil() if what == "abmil" else models.steph(rows)), _ours
    optimiser = models.optimiser(model.train())
    before = _high_water()
    run(model, n_bags, n_instances)
    optimiser.step()
    print(json.dumps({"before": before, "peak": _high_water()}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
