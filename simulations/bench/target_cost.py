"""What a target pays per source, part by part: ``python -m fedsteph.simulations.bench.target_cost``; a table and JSON.

The cohort and the vectors are noise; a part's time depends on their sizes alone. Trainings take one epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.evaluation.inner_folds import InnerFold
from fedsteph.client.models.enhanced_file import train_enhanced
from fedsteph.client.models.model_file import load_model
from fedsteph.client.panel.fit_panel import PanelMembers
from fedsteph.client.screening.contribution import contributions
from fedsteph.client.screening.likeness import figures_of
from fedsteph.client.sharing.mapped_vector import mapped
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import ModelConfig, Recipe
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host import console
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import m0_digest, model_digest, pinned_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.bench.figures import machine
from fedsteph.simulations.memory import looking, memory_of

SCHEMA = "fedsteph/bench-target/v1"
_CPU = torch.device("cpu")
_FOLDS = 3
_LOOK_EVERY = 0.02  # seconds
SMALL = replace(ModelConfig(), width=64, embed=256, attention=192)
PAPER = replace(ModelConfig(), width=1536)


def measure(model: ModelConfig, numbers: list[int], patients: int, instances: int) -> dict[str, Any]:
    """Seconds and added memory in bytes of every part, by number of sources; JSON-ready."""
    model = replace(model, m0_sha256=m0_digest(model))
    config = load_config(None, ["preset=robust"])
    training = replace(config.training, epochs=1, min_steps=1)
    recipe = replace(config.recipe, model=model, training=training, steph=replace(config.recipe.steph, epochs=1))
    cohort = _cohort(patients, instances, int(model.width or 0))
    with TemporaryDirectory() as folder:
        found = {str(n): _parts(recipe, cohort, n, Path(folder)) for n in numbers}
    sizes = {"numbers_in_a_vector": Architecture.of(model).n_merged, "patients": patients, "instances": instances}
    return {"sizes": sizes, "parts": found}


def _parts(recipe: Recipe, cohort: Cohort, n: int, folder: Path) -> dict[str, dict[str, float]]:
    console.tell(f"{n} sources ...")
    m0 = pinned_model(recipe.model)
    vectors = {f"site-{i:04}": mapped(_vector(m0, i), folder) for i in range(n)}
    local = _vector(m0, n).merged_model(m0, torch.zeros(m0.architecture.n_bins))
    own, inner, kin = TaskVector.between(local, m0, head=True), _inner(cohort, local), frozenset[str]()
    path = folder / f"steph-{n}.safetensors"
    things: Mapping[str, Callable[[], object]] = {
        "norms and cosines": lambda: figures_of(vectors, [own, own]),
        "screening": lambda: contributions(inner, vectors, recipe, _CPU),
        "an epoch of STEPH": lambda: train_enhanced(
            path, cohort, local, vectors, recipe, gamma=0.0, label="bench", run=TrainingRun(_CPU)
        ),
        "reading the model": lambda: load_model(path),
        "the panel's scores": lambda: PanelMembers.of(local, vectors, kin, cohort, recipe, _CPU),
    }
    return {name: _measured(thing) for name, thing in things.items()}


def _measured(thing: Callable[[], object]) -> dict[str, float]:
    before, seen = memory_of("RssAnon"), [0]
    started = time.perf_counter()
    with looking(lambda: seen.append(memory_of("RssAnon")), _LOOK_EVERY):
        thing()
    return {"seconds": time.perf_counter() - started, "added_bytes": max(0, max(seen) - before)}


def _vector(m0: BaseModel, seed: int) -> TaskVector:
    source, start = torch.Generator().manual_seed(seed), m0.encoder_state()
    tensors = {name: 1e-3 * torch.randn(weight.shape, generator=source) for name, weight in start.items()}
    head = 1e-3 * torch.randn(m0.architecture.embed, generator=source)
    return TaskVector(m0.architecture, model_digest(m0), tensors, head)


def _cohort(patients: int, instances: int, width: int) -> Cohort:
    source = torch.Generator().manual_seed(1)
    people = [Patient(f"P{i:05d}", 100.0 + 30.0 * (i * 7 % 97), int(i % 3 > 0), ("S",)) for i in range(patients)]
    return Cohort.of_bags(people, [torch.randn(instances, width, generator=source) for _ in people])


def _inner(cohort: Cohort, local: BaseModel) -> list[InnerFold]:
    ids = [patient.id for patient in cohort.patients]
    parts = [ids[k::_FOLDS] for k in range(_FOLDS)]
    return [InnerFold(f"inner {k}", cohort, cohort.subset(held), local) for k, held in enumerate(parts)]


def show(found: Mapping[str, Any], title: str) -> None:
    """A table: a row per part, two columns per number of sources."""
    numbers, parts = list(found["parts"]), list(next(iter(found["parts"].values())))
    rows = []
    for name in parts:
        each = [found["parts"][n][name] for n in numbers]
        rows.append([name, *(f"{one['seconds']:.2f} s, {one['added_bytes'] / 2**20:,.0f} MiB" for one in each)])
    console.show_table(["", *(f"{n} sources" for n in numbers)], rows, title)


def main(words: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.bench.target_cost", description=__doc__)
    parser.add_argument("--sources", type=int, nargs="+", default=[12, 50, 100, 226])
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine()}
    for name, model in {"small": SMALL, "paper": PAPER}.items():
        found[name] = measure(model, given.sources, given.patients, given.instances)
        show(found[name], f"{name} sizes: {found[name]['sizes']}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
