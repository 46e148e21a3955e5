"""One small federation of five sources, in memory and trained once: every site's risk is in the first feature."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from keys_and_rosters import under
from sites import TINY

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.data.tables.splits import make_splits
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_file import SiteFile
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.run_config import load_config
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.attacks.poisoned_federation import trained_vector

SOURCES = ("ash", "birch", "cedar", "elm", "fir")
SETTINGS = (
    *TINY,
    "model.width=6",
    "training.epochs=10",
    "training.lr=0.02",
    "training.loss=cox",
    "steph.gamma=0.0",
    "steph.start=local",
    "steph.epochs=1",
    "steph.start_lam=0.43",
    "steph.start_mass=1.75",
    "comparators.methods=[model_average]",
    "final.members=0",
)


@dataclass(frozen=True)
class Federation:
    """A target's workspace, what the honest sources share, and the sources' own workspaces."""

    target: Workspace
    honest: dict[str, TaskVector]
    sources: dict[str, Workspace]

    def under(self, screening: str) -> Workspace:
        """The target under a policy."""
        return under(self.target, Policy(screening=screening))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums do not depend on the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def federation(tmp_path_factory) -> Federation:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("attacks")
    recipe = load_config(None, list(SETTINGS)).recipe
    m0 = untrained_model(Architecture.of(recipe.model), recipe.model.m0_seed, recipe.model.dropout)
    recipe = replace(recipe, model=replace(recipe.model, m0_sha256=model_digest(m0)))
    opened = {name: _open(folder, name, seed, recipe) for seed, name in enumerate(("target", *SOURCES))}
    target = opened.pop("target")
    target.train_every_fold()
    return Federation(target, {name: trained_vector(one) for name, one in opened.items()}, opened)


def _open(folder: Path, name: str, seed: int, recipe: Recipe) -> Workspace:
    cohort = _cohort(seed)
    site = Site(name, folder, SiteFile(device="cpu"), folder / name)
    return Workspace(
        site,
        recipe,
        cohort,
        tuple(make_splits(cohort.patients, 2, 0)),
        torch.device("cpu"),
        data_digest="0" * 64,
        folder=site.state / "work",
        base_folder=site.state / "base",
    )


def _cohort(seed: int, n: int = 200) -> Cohort:
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    times = rng.exponential(1500 * np.exp(-1.5 * risk)) + 1
    events = (rng.random(n) < 0.9).astype(int)
    patients = [Patient(f"P{i:03d}", float(times[i]), int(events[i]), (f"P{i:03d}",)) for i in range(n)]
    bags = rng.normal(size=(n, 4, 6)).astype(np.float32)
    bags[:, :, 0] += 2 * risk[:, None]
    return Cohort.of_bags(patients, [torch.from_numpy(bag) for bag in bags])
