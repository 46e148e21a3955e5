"""Runs a study's units in worker processes with one thread each, so that the results are the same on any machine."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedsteph.common.errors import FedstephError
from fedsteph.common.host import crew
from fedsteph.common.host.progress import Progress
from fedsteph.simulations.study.plan import Unit
from fedsteph.simulations.study.work import Ground, Worker

_worker: Worker | None = None


@dataclass(frozen=True)
class Failed:
    """A failed unit, with the reason for the user, and a traceback if it was a bug."""

    unit: Unit
    reason: str
    trace: str | None = None

    def to_dict(self) -> dict[str, str | int]:
        """As in ``results.json``."""
        unit = self.unit
        return {"what": unit.title, "fold": unit.fold, "seed": unit.recipe.training.seed, "reason": self.reason}


class Crew(crew.Crew):
    """The worker processes of a study, which work until its end."""

    def __init__(self, ground: Ground, workers: int) -> None:
        remedy = "The same command goes on; use fewer --workers, or a smaller data.cache_gib in site.yaml"
        super().__init__(workers, _begin, ground, where=ground.out, remedy=remedy)

    def run_stage(self, units: Sequence[Unit], on_done: Callable[[Unit], None]) -> list[Failed]:
        """Run a stage's units in any order; the failed ones. EngineError if a worker was killed, perhaps for memory."""
        failed = []
        for i, failure in self.each(_do, units):
            if failure is not None:
                failed.append(failure)
            on_done(units[i])
        return failed


def _begin(ground: Ground) -> None:
    global _worker  # noqa: PLW0603 (a worker process is one worker)
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # Flower's strategies log every round
    _worker = Worker(ground)


def _do(unit: Unit, progress: Progress) -> Failed | None:
    assert _worker is not None
    try:
        _worker.do(unit)
    except FedstephError as error:
        return Failed(unit, error.sentence)
    except Exception as error:  # noqa: BLE001 (the other units are no worse for it)
        return Failed(unit, f"a bug: {type(error).__name__}: {error}", traceback.format_exc())
    return None
