"""Measures the peak memory of one side of a comparison, in a separate process for each measurement.

That process runs ``python -m fedsteph.simulations.bench.peer_sides.peer_memory 2 peft TIES``, which merges vectors with
two threads, or the same with ``torchmil epoch SITE``, and prints its memory before and at the peak, in bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fedsteph.common.errors import EngineError
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.peer_sides.peer_epoch import side_of
from fedsteph.simulations.bench.peer_sides.peer_merging import own_merges, peft_merges
from fedsteph.simulations.memory import memory_of
from fedsteph.simulations.study.costs import Meter

_MODULE = "fedsteph.simulations.bench.peer_sides.peer_memory"


def peak(side: str, what: str, site: Path | None = None) -> dict[str, int]:
    """Bytes of memory before and at the peak.

    Args:
        side: one of ``peer_epoch.SIDES`` for an epoch; ``fedsteph`` or ``peft`` for a merge.
        what: ``epoch``, or the name of a merge.
        site: the folder of the epoch's slides.

    Raises:
        EngineError: the process failed.
    """
    words = [sys.executable, "-m", _MODULE, str(torch.get_num_threads()), side, what, *([str(site)] if site else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError("a process that measures memory failed", where=what, details=done.stderr[-2000:])
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _thing(side: str, what: str, site: Path | None, state: Path) -> Callable[[], object]:
    if site is not None:
        return side_of(side, site, state).epoch
    merges = own_merges if side == "fedsteph" else peft_merges
    return merges(models.vectors(models.SOURCES))[what]


def main(threads: str, side: str, what: str, site: str | None = None) -> None:
    """Run it, and print the memory."""
    torch.set_num_threads(int(threads))
    with TemporaryDirectory() as state:
        thing = _thing(side, what, None if site is None else Path(site), Path(state))
        before = memory_of("VmRSS")
        with Meter(torch.device("cpu")) as meter:
            thing()
    print(json.dumps({"before": before, "peak": meter.peak_bytes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
