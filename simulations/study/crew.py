"""Runs a study's units in worker processes with one thread each, so that the results are the same on any machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from fedsteph.client.training.device import resolve_device
from fedsteph.common.errors import EngineError, FedstephError
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


class Crew:
    """The worker processes of a study. Each is started when it is first needed, and works until the study's end."""

    def __init__(self, ground: Ground, workers: int) -> None:
        self._ground = ground
        context = multiprocessing.get_context("spawn")  # a forked torch with threads can hang
        self._pool = ProcessPoolExecutor(workers, context, _begin, (ground,))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(wait=error is None, cancel_futures=True)
        if error is not None:
            for process in multiprocessing.active_children():
                process.terminate()

    def run_stage(self, units: Sequence[Unit], on_done: Callable[[Unit], None]) -> list[Failed]:
        """Run a stage's units in any order; the failed ones. EngineError if a worker was killed, perhaps for memory."""
        failed = []
        try:
            for future in as_completed([self._pool.submit(_do, unit) for unit in units]):
                unit, failure = future.result()
                if failure is not None:
                    failed.append(failure)
                on_done(unit)
        except BrokenProcessPool as error:
            what = "a worker process was killed, perhaps because memory ran out"
            remedy = "The same command goes on; use fewer --workers, or a smaller data.cache_gib in site.yaml"
            raise EngineError(what, where=self._ground.out, remedy=remedy) from error
        return failed


def usual_workers(device: str) -> int:
    """The default number of workers: one per available core; one on a GPU, because workers would share its memory."""
    if resolve_device(device).type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(ground: Ground) -> None:
    global _worker  # noqa: PLW0603 (a worker process is one worker)
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)  # Flower's strategies log every round
    _worker = Worker(ground)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the parent has ended, so nobody needs the result

    threading.Thread(target=follow, daemon=True).start()


def _do(unit: Unit) -> tuple[Unit, Failed | None]:
    assert _worker is not None
    try:
        _worker.do(unit)
    except FedstephError as error:
        return unit, Failed(unit, error.sentence)
    except Exception as error:  # noqa: BLE001 (the other units are no worse for it)
        return unit, Failed(unit, f"a bug: {type(error).__name__}: {error}", traceback.format_exc())
    return unit, None
