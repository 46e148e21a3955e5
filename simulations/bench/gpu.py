"""One check of everything that fedsteph does on a GPU: ``python -m fedsteph.simulations.bench.gpu``, a few minutes.

It compares results with the CPU's, looks for hidden waits in a training step, and times training. It prints a table and
one JSON object; its exit code is 0 if every check passed, else 1. Without a GPU it says so and does nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import batches
from fedsteph.client.training.objective import backward
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.host import console
from fedsteph.common.model.precision import FACTORS, factors_in
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.figures import machine
from fedsteph.simulations.bench.gpu_checks import CHECKS, LIMIT
from fedsteph.simulations.bench.pairs import in_turn, ratio

SCHEMA = "fedsteph/gpu-check/v1"
_SEED = 0


def measure(device: torch.device, bags: int, instances: int, repeats: int) -> dict[str, Any]:
    """All checks and timings, JSON-ready."""
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine(), "device": _name(device)}
    cohort = models.cohort_of(bags, instances)
    found["checks"] = {name: _checked(name, partial(check, cohort, device)) for name, check in CHECKS.items()}
    found["waits"] = _waits(cohort, device)
    found["speed"] = _speed(cohort, device, instances, repeats)
    found["passed"] = all(one["passed"] for one in found["checks"].values()) and found["waits"] in ("none", "not asked")
    return found


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _checked(name: str, check: Callable[[], float]) -> dict[str, Any]:
    """A check's largest relative difference; a check that raises has failed with the error's own words."""
    console.tell(f"{name} ...")
    started = time.perf_counter()
    try:
        difference: float | None = check()
        error = None
    except Exception as raised:  # noqa: BLE001 (whatever a device raises is what is looked for)
        difference, error = None, f"{type(raised).__name__}: {raised}"
    passed = difference is not None and difference <= LIMIT
    told = None if difference is None or difference == float("inf") else difference
    return {"passed": passed, "difference": told, "error": error, "seconds": round(time.perf_counter() - started, 2)}


def _waits(cohort: Cohort, device: torch.device) -> str:
    """What in a training step makes the CPU wait for the GPU: "none", or torch's words about the first wait."""
    if device.type != "cuda":
        return "not asked"
    model = models.steph(models.vectors(1 + models.SOURCES)).to(device).train()
    optimiser, forward = models.optimiser(model), models.forward_of(model)
    stacks = list(batches(cohort, range(len(cohort)), models.SIZES.n_bins, device))
    for mode in ("default", "error"):  # the first step allocates
        torch.cuda.set_sync_debug_mode(mode)
        try:
            optimiser.zero_grad(set_to_none=True)
            backward(forward, lambda: stacks, len(cohort), TrainingConfig())
            optimiser.step()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "none"


def _speed(cohort: Cohort, device: torch.device, instances: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step with all bags on the device, and what follows from them."""
    rows = models.vectors(1 + models.SOURCES)
    stacks = list(batches(cohort, range(len(cohort)), models.SIZES.n_bins, device))
    things = {
        "abmil": _step(models.abmil(), stacks, len(cohort), device),
        "abmil, bfloat16": _step(models.abmil(), stacks, len(cohort), device, "bfloat16"),
        "steph": _step(models.steph(rows), stacks, len(cohort), device),
        "product": _product(len(cohort) * instances, device),
    }
    spreads, seconds = in_turn(things, repeats)
    sizes = models.SIZES
    flops = 2.0 * len(cohort) * instances * (2 * sizes.width * sizes.embed + 6 * sizes.embed * sizes.attention)
    rate = 2.0 * len(cohort) * instances * sizes.width * sizes.embed / spreads["product"].median
    return {
        "seconds": {name: spread.median for name, spread in spreads.items()},
        "steph_vs_abmil": ratio(seconds, "steph", "abmil"),
        "bfloat16_vs_float32": ratio(seconds, "abmil, bfloat16", "abmil"),
        "slides_per_second": len(cohort) / spreads["abmil"].median,
        "fraction_of_peak": flops / spreads["abmil"].median / rate,
        "gflops_per_second": rate / 1e9,
        "instances": instances,
    }


def _step(
    model: nn.Module, stacks: list[Any], n: int, device: torch.device, precision: str = "float32"
) -> Callable[[], None]:
    model = model.to(device).train()
    optimiser, forward = models.optimiser(model), models.forward_of(model)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        with factors_in(FACTORS[precision]):
            backward(forward, lambda: stacks, n, TrainingConfig())
        optimiser.step()
        _finish(device)

    return run


def _product(n: int, device: torch.device) -> Callable[[], None]:
    a = torch.randn(n, models.SIZES.width, device=device)
    b = torch.randn(models.SIZES.width, models.SIZES.embed, device=device)

    def run() -> None:
        torch.mm(a, b)
        _finish(device)

    return run


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(found: dict[str, Any]) -> None:
    """The table, on the terminal."""
    rows = []
    for name, one in found["checks"].items():
        told = one["error"] or ("not finite" if one["difference"] is None else f"{one['difference']:.1e}")
        rows.append([name, "PASS" if one["passed"] else "FAIL", told, f"{one['seconds']:.1f}"])
    rows.append(["a step without hidden waits", "PASS" if found["waits"] == "none" else "-", found["waits"], ""])
    console.show_table(["check", "", f"difference from the CPU (at most {LIMIT:g})", "s"], rows, found["device"])
    speed = found["speed"]
    figures = [[name, f"{seconds * 1e3:.1f} ms"] for name, seconds in speed["seconds"].items()]
    figures += [["STEPH : ABMIL", f"{speed['steph_vs_abmil']:.2f}"]]
    figures += [["slides per second, ABMIL", f"{speed['slides_per_second']:.1f}"]]
    figures += [["fraction of the largest product's rate", f"{speed['fraction_of_peak']:.2f}"]]
    console.show_table(["a step", ""], figures, f"bags of {speed['instances']} instances")


def main(words: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps; cpu only to try the script itself")
    parser.add_argument("--bags", type=int, default=16)
    parser.add_argument("--instances", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: this machine has no CUDA GPU that torch can use. Run it on one that has", file=sys.stderr)
        return 1
    torch.manual_seed(_SEED)
    found = measure(device, given.bags, given.instances, given.repeats)
    show(found)
    print(json.dumps(found))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
