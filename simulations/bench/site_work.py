"""``fedsteph measure site``: the whole benchmark of one site's work.

Every figure is a ratio between measurements made in turn on this machine, with the seconds or bytes that it is of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fedsteph.simulations.bench import data_path, epoch, models, sources, step_memory, steps
from fedsteph.simulations.bench.figures import machine

SCHEMA = "fedsteph/bench/v1"


@dataclass(frozen=True)
class Extent:
    """The sizes and repetitions of the measurements."""

    steps: dict[int, int]  # instances per bag -> timed rounds of training steps
    inference: dict[int, int]  # instances of a slide -> timed rounds of its prediction
    memory: tuple[int, ...]  # instances per bag: of a step of 16 bags, then of steps with one larger bag
    sources: tuple[tuple[int, ...], int, int]  # ascending numbers of sources, instances per bag, timed rounds of steps
    slides: tuple[int, int, int]  # slides, instances per slide, timed rounds of reading them
    epoch: tuple[int, int]  # slides and instances per slide of the epoch whose waiting time is measured


QUICK = Extent({1: 9, 1000: 5, 10_000: 3}, {10_000: 9}, (10_000,), ((12, 1000), 1000, 5), (4, 10_000, 3), (300, 500))
WHOLE = Extent(
    {1: 15, 100: 9, 1000: 9, 4000: 5, 10_000: 5},
    {1: 25, 1000: 25, 10_000: 15},
    (10_000, 100_000, 250_000),
    ((12, 100, 1000), 1000, 9),
    (8, 10_000, 5),
    (300, 4000),
)


def measure(extent: Extent, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all measurements; ``say`` is told of each. JSON-ready: the ratios by name, and the parts' own figures."""
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine(), "threads": torch.get_num_threads()}
    by_size, inference = {}, {}
    for n, repeats in extent.steps.items():
        say(f"training steps, {n:,} instances")
        by_size[str(n)] = steps.measure_steps(n, repeats)
    for n, repeats in extent.inference.items():
        say(f"inference, {n:,} instances")
        inference[str(n)] = steps.measure_inference(n, repeats)
    say("memory of a step")
    size, *larger = extent.memory
    memory = {what: step_memory.measure(what, steps.BAGS, size) for what in ("steph", "plain", "abmil")}
    few = step_memory.measure("steph", steps.BAGS // 2, size)
    large = {str(n): step_memory.measure("steph", 1, n) for n in larger}
    numbers, n_instances, repeats = extent.sources
    say(f"steps with {numbers[0]} to {numbers[-1]:,} sources")
    scale = sources.measure(numbers, n_instances, repeats)
    say("reading slides")
    n_slides, n_instances, repeats = extent.slides
    reading = data_path.measure(n_slides, n_instances, models.SIZES.width, repeats)
    say("an epoch from disk")
    from_disk = epoch.measure(*extent.epoch)
    found |= {
        "step_vs_plain": {n: one["step_vs_plain"] for n, one in by_size.items()},
        "step_memory_vs_plain": {str(size): memory["steph"]["peak"] / memory["plain"]["peak"]},
        "step_memory_16_bags_vs_8": {str(size): _needed(memory["steph"]) / _needed(few)},
        "inference_vs_abmil": {n: one["inference_vs_abmil"] for n, one in inference.items()},
        "inference_sampled_vs_abmil": {n: one["inference_sampled_vs_abmil"] for n, one in inference.items()},
        "abmil_vs_gemm": {n: one["abmil_vs_gemm"] for n, one in by_size.items() if int(n) >= 30},
        "io_cached_vs_h5py": reading["io_cached_vs_h5py"],
        "epoch_waiting_share": from_disk["waiting_share"],
        "step_1000_sources_vs_12": scale["step_vs_fewest"],
        "step_1000_sources_vs_12_memory": scale["memory_vs_fewest"],
    }
    parts = {"steps": by_size, "inference": inference, "memory": memory, "memory_8_bags": few, "memory_one_bag": large}
    return found | {"parts": parts | {"sources": scale, "reading": reading, "epoch": from_disk}}


def _needed(memory: dict[str, int]) -> int:
    return memory["peak"] - memory["before"]
