"""Times training steps and inference of fedsteph and of the plain implementation, and the matrix products in them.

A step is the forward and backward pass of 16 bags and an AdamW update, with dropout, at the paper's sizes, 12 sources.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import batches
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.model.survival import bin_of
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.pairs import in_turn, ratio

BAGS = 16
_CPU = torch.device("cpu")
_TRAINING = TrainingConfig()


def measure_steps(n_instances: int, repeats: int) -> dict[str, Any]:
    """Time steps of STEPH, of the plain STEPH and of ABMIL, and the largest matrix product, in turn.

    Returns JSON-ready: seconds; ``step_vs_plain``; ``gemm_gflops_per_second``, the machine's rate for the largest
    product; and ``abmil_vs_gemm``, the rate of ABMIL's products over the time of a whole step, as a share of that rate.
    """
    rows, cohort = models.vectors(1 + models.SOURCES), models.cohort_of(BAGS, n_instances)
    things = {
        "steph": step(models.steph(rows), cohort),
        "plain": plain_step(models.plain_steph(rows), cohort),
        "abmil": step(models.abmil(), cohort),
        "gemm": _gemm(n_instances),
    }
    spreads, seconds = in_turn(things, repeats)
    rate = 2 * n_instances * models.SIZES.width * models.SIZES.embed / 1e9 / spreads["gemm"].median
    found = {
        "seconds": {name: asdict(spread) for name, spread in spreads.items()},
        "step_vs_plain": ratio(seconds, "steph", "plain"),
        "gemm_gflops_per_second": rate,
    }
    return found | {"abmil_vs_gemm": _abmil_gflop(n_instances) / spreads["abmil"].median / rate}


def measure_inference(n_instances: int, repeats: int) -> dict[str, Any]:
    """Time the prediction of one slide by STEPH as published, with sampled routing, by plain STEPH, and by ABMIL."""
    rows = models.vectors(1 + models.SOURCES)
    bag = models.cohort_of(1, n_instances).bag(0)
    plain = models.plain_steph(rows)
    ours = {"steph": models.steph(rows), "sampled": models.steph(rows, sampled=True), "abmil": models.abmil()}
    things = {name: _inference(model, bag.unsqueeze(0)) for name, model in ours.items()}
    spreads, seconds = in_turn(things | {"plain": _inference(plain, bag)}, repeats)
    return {
        "seconds": {name: asdict(spread) for name, spread in spreads.items()},
        "inference_vs_abmil": ratio(seconds, "steph", "abmil"),
        "inference_sampled_vs_abmil": ratio(seconds, "sampled", "abmil"),
        "inference_vs_plain": ratio(seconds, "steph", "plain"),
    }


def step(model: nn.Module, cohort: Cohort, training: TrainingConfig = _TRAINING) -> Callable[[], None]:
    """A function that makes one training step over a whole cohort, as fedsteph's training does."""
    forward, optimiser = models.forward_of(model.train()), models.optimiser(model)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        everyone = range(len(cohort))
        backward(forward, lambda: batches(cohort, everyone, models.SIZES.n_bins, _CPU), len(cohort), training)
        optimiser.step()

    return run


def plain_step(model: nn.Module, cohort: Cohort) -> Callable[[], None]:
    """A function that makes one training step of the plain implementation, which keeps the graphs of all bags."""
    module, optimiser = models.plain_module(), models.optimiser(model.train())
    bags, events = [cohort.bag(i) for i in range(len(cohort))], cohort.events.tolist()
    bins = bin_of(cohort.times, models.SIZES.n_bins).tolist()

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        module.step_loss(model, bags, bins, events).backward()
        optimiser.step()

    return run


def _inference(model: nn.Module, bag: torch.Tensor) -> Callable[[], None]:
    model.eval()

    @torch.no_grad()
    def run() -> None:
        model(bag)

    return run


def _gemm(n_instances: int) -> Callable[[], None]:
    a, b = torch.randn(n_instances, models.SIZES.width), torch.randn(models.SIZES.width, models.SIZES.embed)
    out = torch.empty(n_instances, models.SIZES.embed)

    def run() -> None:
        torch.mm(a, b, out=out)

    return run


def _abmil_gflop(n_instances: int) -> float:
    """GFLOPs of the large products of an ABMIL step.

    Bags need no gradient, so the embedding has two products, and each attention branch has three.
    """
    sizes = models.SIZES
    per_instance = 2 * sizes.width * sizes.embed + 3 * 2 * sizes.embed * sizes.attention
    return BAGS * 2 * n_instances * per_instance / 1e9
