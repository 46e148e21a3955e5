"""Measures the peak memory of one training step, in a separate process for each measurement.

That process runs ``python -m fedsteph.simulations.bench.step_memory steph 16 10000``: it writes a site's slides, makes
one training step over them, and prints its memory before and at the peak, in bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.training.loader import Loader
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.errors import EngineError
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.data_path import write_site
from fedsteph.simulations.bench.steps import plain_step
from fedsteph.simulations.memory import memory_of
from fedsteph.simulations.study.costs import Meter

_GONE_WRONG = "A step that measures memory failed"


def measure(what: str, n_bags: int, n_instances: int) -> dict[str, int]:
    """Bytes of memory before and at the peak of a step of ``steph``, ``abmil`` or ``plain``. Raises EngineError."""
    words = [sys.executable, "-m", "fedsteph.simulations.bench.step_memory", what, str(n_bags), str(n_instances)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(_GONE_WRONG, where=what, details=done.stderr[-2000:])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _step(model: torch.nn.Module, cohort: Cohort) -> None:
    """A step as in production, including prefetching."""
    optimiser = models.optimiser(model.train())
    with Loader(cohort, [list(range(len(cohort)))], models.SIZES.n_bins, torch.device("cpu")) as loader:
        for stacks in loader:
            backward(models.forward_of(model), stacks, len(cohort), TrainingConfig())
    optimiser.step()


def _main(what: str, n_bags: int, n_instances: int) -> None:
    rows = models.vectors(1 + models.SOURCES)
    make: dict[str, Callable[[torch.Tensor], torch.nn.Module]] = {
        "plain": models.plain_steph,
        "steph": models.steph,
        "abmil": lambda _: models.abmil(),
    }
    model = make[what](rows)
    with TemporaryDirectory() as folder:
        site = Path(folder)
        write_site(site, n_bags, n_instances, models.SIZES.width, one_row_chunks=False)
        cohort = open_cohort(site, DataSettings(cache_gib=0, disk_cache="never"))
        before = memory_of("VmRSS")
        with Meter(torch.device("cpu")) as meter:
            if what == "plain":
                plain_step(model, cohort)()
            else:
                _step(model, cohort)
        print(json.dumps({"before": before, "peak": meter.peak_bytes}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
