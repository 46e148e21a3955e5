"""Compares what a device computes with what the CPU computes: models, merge, copies, resume, private training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.privacy.dp_sgd import clipped_sum
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.training import checkpoint, residency
from fedsteph.client.training.batch import batches, predict_hazards
from fedsteph.client.training.loop import fit
from fedsteph.client.training.objective import backward
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.simulations.bench import models

LIMIT = 1e-4  # of a relative difference from the CPU
_CPU = torch.device("cpu")
_CLIP = 0.03
Check = Callable[[Cohort, torch.device], float]


class _StoppedError(Exception):
    """Ends a training where its resumption is to be checked."""


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest magnitude; infinite where a value is not finite."""
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    found = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
    return found if math.isfinite(found) else math.inf


def _model(make: Callable[[], nn.Module]) -> Check:
    def check(cohort: Cohort, device: torch.device) -> float:
        """Hazards, and the gradients of a step without dropout."""
        here = make().eval()
        there = copy.deepcopy(here)
        hazards = [torch.from_numpy(predict_hazards(m, cohort, d)) for m, d in ((there, device), (here, _CPU))]
        found = [apart(*hazards)]
        for model, where in ((there, device), (here, _CPU)):
            stacks = partial(batches, cohort, range(len(cohort)), models.SIZES.n_bins, where)
            backward(models.forward_of(model), stacks, len(cohort), TrainingConfig())
        pairs = zip(there.parameters(), here.parameters(), strict=True)
        return max(found + [apart(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None])

    return check


def _merge(cohort: Cohort, device: torch.device) -> float:
    """The dense merge of many bags, which is one product on a GPU."""
    mixture = models.steph(models.vectors(1 + models.SOURCES)).mixture
    weights = torch.rand(len(cohort), 1 + models.SOURCES, generator=torch.Generator().manual_seed(2))
    here, there = mixture.merge(weights), mixture.to(device).merge(weights.to(device))
    return max(apart(there[name], here[name]) for name in here)


def _residency(cohort: Cohort, device: torch.device) -> float:
    """Bags that stay in the device's memory against bags that are streamed to it."""
    model = models.abmil()
    stay = predict_hazards(model, cohort, device)
    residency.release(cohort)
    with _set(residency, "SHARE", 0.0):
        streamed = predict_hazards(model, cohort, device)
    residency.release(cohort)
    return apart(torch.from_numpy(streamed), torch.from_numpy(stay))


def _prefetch(cohort: Cohort, device: torch.device) -> float:
    """Streamed bags, copied beside the computation, against the cohort's own."""
    found = 0.0
    with _set(residency, "SHARE", 0.0):
        for group, batch in batches(cohort, range(len(cohort)), models.SIZES.n_bins, device):
            _ = batch.bags.square().sum()  # computation that the next copy overlaps
            for row, i in enumerate(group):
                found = max(found, apart(batch.bags[row, : cohort.n_instances(i)], cohort.bag(i)))
    residency.release(cohort)
    return found


def _resume(cohort: Cohort, device: torch.device) -> float:
    """A training that was stopped and goes on against one that nobody stopped."""
    config = TrainingConfig(epochs=3, batch_bags=2, lr=1e-3)

    def stop(done: float, total: float) -> None:
        if done == 2:
            raise _StoppedError

    def train(run: TrainingRun) -> nn.Module:
        model = models.abmil()
        fit(model, models.forward_of(model), cohort, config, seed=0, run=run)
        return model.cpu()

    whole = train(TrainingRun(device))
    with TemporaryDirectory() as folder, _set(checkpoint, "EVERY_SECONDS", 0.0):
        path = Path(folder) / "training.checkpoint"
        try:
            train(TrainingRun(device, path, stop))
        except _StoppedError:
            resumed = train(TrainingRun(device, path))
    return max(apart(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def _private(cohort: Cohort, device: torch.device) -> float:
    """The clipped gradients of DP-SGD."""
    part = TrainedPart(models.abmil(), "direction")
    state, everyone = torch.zeros(part.size + 1, dtype=torch.float64), list(range(len(cohort)))
    here = clipped_sum(part, cohort, everyone, state, _CLIP, _CPU)
    part.m0.to(device)
    return apart(clipped_sum(part, cohort, everyone, state, _CLIP, device), here)


CHECKS: dict[str, Check] = {
    "ABMIL, values and gradients": _model(models.abmil),
    "STEPH, values and gradients": _model(lambda: models.steph(models.vectors(1 + models.SOURCES))),
    "dense merge": _merge,
    "bags that stay": _residency,
    "bags that are streamed": _prefetch,
    "a stopped training goes on": _resume,
    "private training": _private,
}


@contextmanager
def _set(module: object, name: str, value: float) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
