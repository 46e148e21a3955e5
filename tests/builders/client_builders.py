"""Cohorts in memory, recipes and vectors, for the tests of ``client``."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import SimpleNamespace

import numpy as np
import torch
from sites import TINY, make_site

from fedsteph.client.data.bags import BagCache, Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.data.tables.splits import Split
from fedsteph.client.sharing.statement import Statement, vector_content
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.run_config import load_config
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector

CPU = torch.device("cpu")
ON_CPU = TrainingRun(CPU)
SMALL = Architecture(width=6, embed=8, attention=5, n_bins=4)


class StoppedError(Exception):
    """Ends a training where a test says so."""


class Held:
    """A saved tensor that tells when it is let go."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class MemoryCohort(Cohort):
    """A cohort whose bags are given and not read."""

    def __init__(self, patients: Sequence[Patient], bags: dict[str, torch.Tensor]) -> None:
        super().__init__(patients, {}, next(iter(bags.values())).shape[1], BagCache(0))
        self.bags = bags

    def bag(self, i: int) -> torch.Tensor:
        return self.bags[self.patients[i].id]

    def n_instances(self, i: int) -> int:
        return len(self.bag(i))

    def subset(self, ids: Iterable[str]) -> MemoryCohort:
        by_id = {patient.id: patient for patient in self.patients}
        return MemoryCohort([by_id[key] for key in ids], self.bags)


def make_cohort(sizes: Sequence[int], *, width: int = 6, seed: int = 0, years: float = 4, events=None) -> MemoryCohort:
    """One patient per bag size; the first feature's mean is the risk, and two of three have an event."""
    rng = np.random.default_rng(seed)
    patients, bags = [], {}
    for i, size in enumerate(sizes):
        risk = rng.normal()
        t = float(np.clip(rng.exponential(np.exp(-risk)), 0.01, years) * 365)
        e = int(rng.random() < 0.67) if events is None else int(events[i])
        bag = torch.from_numpy(rng.normal(size=(size, width)).astype(np.float32))
        bag[:, 0] += 2 * risk
        patients.append(Patient(f"P{i:03d}", t, e, (f"P{i:03d}-DX1",)))
        bags[patients[-1].id] = bag
    return MemoryCohort(patients, bags)


def make_recipe(*settings: str, width: int = 6) -> Recipe:
    """``TINY`` and the given settings, with M0's digest pinned."""
    recipe = load_config(None, [*TINY, f"model.width={width}", *settings]).recipe
    return replace(recipe, model=replace(recipe.model, m0_sha256=model_digest(m0_of(recipe))))


def m0_of(recipe: Recipe) -> BaseModel:
    return untrained_model(Architecture.of(recipe.model), recipe.model.m0_seed, recipe.model.dropout)


def make_vectors(recipe: Recipe, n: int, scale: float = 0.1) -> dict[str, TaskVector]:
    """Random source vectors; the names are ``s000``, ``s001``, ..."""
    m0, found = m0_of(recipe), {}
    for k in range(n):
        noise = torch.Generator().manual_seed(1000 + k)
        shapes = Architecture.of(recipe.model).encoder_shapes
        tensors = {name: scale * torch.randn(shape, generator=noise) for name, shape in shapes.items()}
        found[f"s{k:03d}"] = TaskVector(Architecture.of(recipe.model), model_digest(m0), tensors)
    return found


def with_statement(vector_file: bytes) -> bytes:
    """What is sealed for a vector whose sender states nothing."""
    return vector_content(Statement(None, None, None, None, None), vector_file)


_MADE = TemporaryDirectory(prefix="made-once")  # sites that are copied, or only read


@functools.cache
def kept_site(*key: str, **site: object) -> Path:
    """A site folder that is made once in a process, and for each ``key`` copied once. Its data is not to be changed."""
    folder = Path(mkdtemp(dir=_MADE.name)) / "site"
    return shutil.copytree(kept_site(**site), folder) if key else make_site(folder, **site)


def make_workspace(folder: Path, *settings: str, name: str = "site", **site: object) -> Workspace:
    """A site folder on disk and its workspace."""
    if not (folder / name).exists():
        shutil.copytree(kept_site(**site), folder / name)
    return Workspace.open(Site.open(folder / name, device="cpu"), make_recipe(*settings))


def trained_workspace(folder: Path, *settings: str, **site: object) -> Workspace:
    """The same, with the site's own model of every fold, which is trained once in a process."""
    kept = kept_site("trained", *settings, **site)
    make_workspace(kept.parent, *settings).train_every_fold()
    shutil.copytree(kept, folder / "site", dirs_exist_ok=True)
    return make_workspace(folder, *settings)


def memory_workspace(cohort: Cohort, recipe: Recipe, folder: Path, folds: int = 2) -> Workspace:
    """A workspace over a cohort in memory, all of which is the training part of every fold."""
    everybody = Split(tuple(patient.id for patient in cohort.patients), ())
    return Workspace(
        site=None,
        recipe=recipe,
        cohort=cohort,
        splits=(everybody,) * folds,
        device=CPU,
        data_digest="0" * 64,
        folder=folder / "work",
        base_folder=folder / "base",
    )


def plain_c(t: np.ndarray, e: np.ndarray, risk: np.ndarray) -> float | None:
    """Harrell's C by two loops; None without a comparable pair."""
    total, concordant = 0, 0.0
    for i in range(len(t)):
        for j in range(len(t)):
            if e[i] == 1 and (t[i] < t[j] or (t[i] == t[j] and e[j] == 0)):
                total += 1
                concordant += 0.5 if abs(risk[i] - risk[j]) <= 1e-8 else float(risk[i] > risk[j])
    return concordant / total if total else None


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states are the same bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(fits: Spy) -> list[int]:
    """How many local models and how many STEPHs were trained since the last call; ``fits`` spies on ``fit``."""
    kinds = [type(call.args[0]) for call in fits.calls]
    fits.calls.clear()
    assert {*kinds} <= {BaseModel, Steph}
    return [kinds.count(BaseModel), kinds.count(Steph)]


class Spy:
    """Calls through, and keeps what went in and came out."""

    def __init__(self, monkeypatch, module, name: str) -> None:
        real = getattr(module, name)
        self.calls: list[SimpleNamespace] = []

        def spying(*args, **kwargs):
            call = SimpleNamespace(args=args, kwargs=kwargs, result=None)
            self.calls.append(call)
            call.result = real(*args, **kwargs)
            return call.result

        monkeypatch.setattr(module, name, spying)


def prefetching() -> list[str]:
    """The threads that read ahead now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fedsteph")]
