"""Measures the peak memory of one training step, in a separate process for each measurement.

That process runs ``python -m fedsteph.simulations.bench.step_memory steph 16 10000``: it writes a site's slides, makes
one training step over them as in production, including prefetching, and prints its memory before and at the peak, in
bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
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


def _ours(model: torch.nn.Module, cohort: Cohort) -> None:
    everyone = list(range(len(cohort)))
    with Loader(cohort, [everyone], models.SIZES.n_bins, torch.device("cpu")) as loader:
        for stacks in loader:
            backward(models.forward_of(model), stacks, len(cohort), TrainingConfig())


def _plain(model: torch.nn.Module, cohort: Cohort) -> None:
    bags, bins = models.bags_of(cohort), models.bins_of(cohort)
    models.plain_module().step_loss(model, bags, bins, cohort.events.tolist()).backward()


def _main(what: str, n_bags: int, n_instances: int) -> None:
    rows = models.vectors(1 + models.SOURCES)
    if what == "plain":
        model, run = models.plain_steph(rows), _plain
    else:
        model, run = (models.abmil() if what == "abmil" else models.steph(rows)), _ours
    optimiser = models.optimiser(model.train())
    with TemporaryDirectory() as folder:
        site = Path(folder)
        write_site(site, n_bags, n_instances, models.SIZES.width, one_row_chunks=False)
        cohort = open_cohort(site, DataSettings(cache_gib=0, disk_cache="never"))
        before = memory_of("VmRSS")
        with Meter(torch.device("cpu")) as meter:
            run(model, cohort)
            optimiser.step()
        print(json.dumps({"before": before, "peak": meter.peak_bytes}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
