"""The whole benchmark of one site's work: ``fedsteph measure site``.

Every figure is a ratio of things run in turn in one process, beside the seconds or bytes that it was made of. What
sealing and relaying cost is measured by ``fedsteph measure sealing`` and ``fedsteph measure relay``.
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
    """How much is measured.

    Args:
        steps: instances of a bag -> rounds of steps that are timed.
        inference: likewise, of one slide's prediction.
        memory: instances of the bags of a step whose memory is measured, and of single larger ones.
        sources: numbers of sources, from few to many, instances of a bag, and the rounds of steps with each.
        slides: slides, instances of each, and rounds of reading them.
        epoch: slides and instances of the epoch whose waiting for data is measured.
    """

    steps: dict[int, int]
    inference: dict[int, int]
    memory: tuple[int, ...]
    sources: tuple[tuple[int, ...], int, int]
    slides: tuple[int, int, int]
    epoch: tuple[int, int]


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
    """Run every part and gather what the parts found.

    Returns:
        JSON-ready: the ratios by name, by instances where there are several, and the parts' own figures.
    """
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
