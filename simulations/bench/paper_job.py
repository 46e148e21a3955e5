"""What the paper's job would take: ``python -m fedsteph.simulations.bench.paper_job``, a minute.

13 cohorts are targets in turn, over 5 folds and from the 12 others. The hours on this machine are measured seconds per
slide and epoch, multiplied by the slides that all trainings see; a GPU's are calculated from the numbers of its data
sheet. Not counted: the first reading of the slides, predictions, and comparators. It prints a table and one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fedsteph.client.evaluation.inner_folds import n_inner_folds
from fedsteph.client.evaluation.select import trainings
from fedsteph.client.training.loop import with_least_steps
from fedsteph.client.training.survival_fit import for_steph
from fedsteph.common.config.recipe import Recipe, TrainingConfig
from fedsteph.common.config.run_config import config_of
from fedsteph.common.host import console
from fedsteph.common.vector.shared_part import shared_bytes
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.figures import machine
from fedsteph.simulations.bench.pairs import in_turn
from fedsteph.simulations.bench.steps import step
from fedsteph.simulations.study.costs import ENVELOPE_BYTES

SCHEMA = "fedsteph/paper-job/v1"
# Slides and patients of the paper's cohorts, as far as TCGA-CDR knows the cause of death.
COHORTS = {
    "blca": (442, 371),
    "brca": (1017, 953),
    "cesc": (216, 207),
    "coadread": (552, 545),
    "gbmlgg": (1621, 839),
    "hnsc": (449, 427),
    "kipan": (906, 876),
    "lihc": (347, 340),
    "lung": (920, 844),
    "sarc": (539, 224),
    "skcm": (445, 405),
    "stes": (486, 461),
    "ucec": (541, 482),
}
PRESETS = ("paper", "robust")
_BAGS = 8


@dataclass(frozen=True)
class Gpu:
    """A GPU's rates; as given, those of NVIDIA's data sheet for an A100 of 40 GB, with float32 outside tensor cores."""

    tflops: float = 19.5  # 10^12 operations per second
    memory_gbs: float = 1555.0  # 10^9 bytes per second, of its own memory
    copy_gbs: float = 20.0  # 10^9 bytes per second, from the computer's memory


def slide_epochs(recipe: Recipe, slides: int, patients: int) -> dict[str, float]:
    """How many slides all trainings of one target see in all their epochs, for ``abmil`` and ``steph``."""
    folds, inner = recipe.evaluation.folds, recipe.steph.inner_folds
    of_fold = patients * (folds - 1) / folds
    of_inner = of_fold * (inner - 1) / inner

    def seen(n: float, training: TrainingConfig) -> float:
        return n * slides / patients * with_least_steps(training, round(n)).epochs

    def all_of(training: TrainingConfig, n_inner: int) -> float:
        each = seen(of_fold, training) + n_inner * seen(of_inner, training)
        return folds * each + recipe.final.members * seen(patients, training)

    return {
        "abmil": all_of(recipe.training, n_inner_folds(recipe)),
        "steph": all_of(for_steph(recipe).training, trainings(recipe)),
    }


def seconds_per_slide(instances: int, training: TrainingConfig, repeats: int) -> dict[str, float]:
    """Measured seconds per slide of an epoch of ABMIL and of STEPH with 12 sources, from bags in memory."""
    cohort, rows = models.cohort_of(_BAGS, instances), models.vectors(1 + models.SOURCES)
    made: dict[str, nn.Module] = {"abmil": models.abmil(), "steph": models.steph(rows)}
    spreads, _ = in_turn({name: step(model, cohort, training) for name, model in made.items()}, repeats)
    return {name: spread.median / _BAGS for name, spread in spreads.items()}


def gpu_seconds_per_slide(instances: int, training: TrainingConfig, gpu: Gpu) -> dict[str, float]:
    """Calculated seconds per slide of an epoch: what takes longest of products, its memory, and copies to it.

    Cox's loss takes another forward pass. A layer's numbers are written and read once in each direction.
    """
    w, e, a = models.SIZES.width, models.SIZES.embed, models.SIZES.attention
    again = 2 if training.loss == "cox" else 1
    forward, backward = {"abmil": w * e + 2 * e * a}, {"abmil": w * e + 4 * e * a}
    moved = {"abmil": (1 + again) * w + 7 * e + 16 * a}
    forward["steph"], backward["steph"] = forward["abmil"] + w * e, backward["abmil"] + w * e
    moved["steph"] = moved["abmil"] + (1 + again) * w + 3 * e
    copied = again * 4 * w / (gpu.copy_gbs * 1e9)
    found = {}
    for name, once in forward.items():
        products = 2 * (again * once + backward[name]) / (gpu.tflops * 1e12)
        found[name] = instances * max(products, 4 * moved[name] / (gpu.memory_gbs * 1e9), copied)
    return found


def hours(recipe: Recipe, seconds: dict[str, float]) -> float:
    """Hours of all targets, one after the other."""
    each = [slide_epochs(recipe, *cohort) for cohort in COHORTS.values()]
    return sum(seen[name] * seconds[name] for seen in each for name in seconds) / 3600


def disk_bytes(recipe: Recipe, instances: int) -> dict[str, int]:
    """Bytes of the slides' features (a disk cache takes as many again), of sealed vectors, and of kept models."""
    n, width = len(COHORTS), models.SIZES.width
    sharing, folds, members = recipe.sharing, recipe.evaluation.folds, recipe.final.members
    vector = shared_bytes(replace(recipe.model, width=width), sharing, head=sharing.head == "always") + ENVELOPE_BYTES
    own, rows = _bytes(models.abmil()), models.vectors(n)
    # An enhanced model's file holds the target's own model, M0 and all vectors; it is kept with its panel and without.
    merged = _bytes(models.steph(rows)) + own + (1 + n) * rows[0].nbytes
    n_own = folds * (1 + n_inner_folds(recipe)) + members
    return {
        "features": sum(slides for slides, _ in COHORTS.values()) * instances * width * 4,
        "vectors": n * (n - 1) * vector,
        "models": n * (n_own * own + 2 * (folds + members) * merged),
    }


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def estimate(instances: int, repeats: int, gpu: Gpu) -> dict[str, Any]:
    """Everything, JSON-ready, for each preset."""
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine(), "threads": torch.get_num_threads()}
    found |= {"instances": instances, "gpu": vars(gpu), "presets": {}}
    for name in PRESETS:
        console.tell(f"preset {name} ...")
        recipe = config_of({"preset": name}, "preset").recipe
        measured = seconds_per_slide(instances, recipe.training, repeats)
        calculated = gpu_seconds_per_slide(instances, recipe.training, gpu)
        found["presets"][name] = {
            "seconds_per_slide": measured,
            "hours": hours(recipe, measured),
            "gpu_seconds_per_slide_calculated": calculated,
            "gpu_hours_calculated": hours(recipe, calculated),
            "bytes": disk_bytes(recipe, instances),
        }
    return found


def show(found: dict[str, Any]) -> None:
    """The table, on the terminal."""
    rows = []
    for name, one in found["presets"].items():
        seconds = [f"{one['seconds_per_slide'][kind]:.3f}" for kind in ("abmil", "steph")]
        sizes = [f"{size / 1e9:,.1f}" for size in one["bytes"].values()]
        rows.append([name, *seconds, f"{one['hours']:,.0f}", f"{one['gpu_hours_calculated']:,.1f}", *sizes])
    header = ["preset", "ABMIL, s per slide", "STEPH, s per slide", "hours", "hours on a GPU, calculated"]
    header += ["features, GB", "vectors, GB", "models, GB"]
    console.show_table(header, rows, f"13 cohorts, 5 folds, 12 sources, {found['instances']:,} instances in a slide")


def main(words: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.bench.paper_job", description=__doc__)
    parser.add_argument("--instances", type=int, default=4000, help="of a slide")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    for name, rate in vars(Gpu()).items():
        parser.add_argument(f"--gpu-{name.replace('_', '-')}", type=float, default=rate)
    given, threads = parser.parse_args(words), torch.get_num_threads()
    rates = [given.gpu_tflops, given.gpu_memory_gbs, given.gpu_copy_gbs]
    if min(given.instances, given.repeats, given.threads, *rates) <= 0 or not all(map(math.isfinite, rates)):
        parser.error("every number must be above 0")
    torch.set_num_threads(given.threads)
    try:
        found = estimate(given.instances, given.repeats, Gpu(*rates))
    finally:
        torch.set_num_threads(threads)
    show(found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
