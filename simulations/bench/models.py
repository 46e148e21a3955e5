"""The benchmarks' models at the paper's sizes: fedsteph's, and the plain reference implementation from the tests."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.steph.mixture import Mixture, Rows
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.objective import Forward, Outputs
from fedsteph.client.training.optimizer import AdamW
from fedsteph.common.config.recipe import ModelConfig, StephConfig
from fedsteph.common.errors import EngineError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.vector.task_vector import cut, flatten

SIZES = Architecture.of(ModelConfig(width=1536))
SOURCES = 12
SEEN = 512  # instances per bag that sampled routing uses
GAMMA = 0.05
_ROOT = Path(__file__).resolve().parents[2]
_PLAIN = Path("tests", "builders", "plain_steph.py")


def vectors(n: int) -> Tensor:
    """Task vectors of Gaussian noise ``(n, P)``, with about the norm of trained ones."""
    source = torch.Generator().manual_seed(0)
    return 1e-3 * torch.randn(n, SIZES.n_merged, generator=source)


def steph(rows: Rows, *, sampled: bool = False) -> Steph:
    """An untrained STEPH model over ``rows`` ``(1 + n_sources, P)``; ``sampled``: it routes on ``SEEN`` instances."""
    m0 = untrained_model(SIZES, seed=42)
    config = replace(StephConfig(), routing_instances=SEEN if sampled else None)
    return Steph(Mixture(SIZES, flatten(m0.encoder_state(), SIZES), rows), config)


def abmil() -> BaseModel:
    """An untrained ABMIL."""
    return untrained_model(SIZES, seed=42)


def forward_of(model: nn.Module) -> Forward:
    """The function by which a training step runs one of fedsteph's models on a batch."""
    if isinstance(model, Steph):
        return lambda batch: model.outputs(batch, GAMMA)
    return lambda batch: Outputs(model(batch.bags, batch.mask))


def plain_module() -> ModuleType:
    """Import the plain implementation from the tests of a git checkout; EngineError if none is at hand."""
    path = next((found for root in (_ROOT, Path.cwd()) if (found := root / _PLAIN).is_file()), _PLAIN)
    spec = importlib.util.spec_from_file_location("plain_steph", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise EngineError(
            "the plain implementation is not there", where=path, remedy="Run this in a git checkout of fedsteph"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_steph(rows: Tensor) -> nn.Module:
    """The plain implementation of STEPH; ``rows`` as for :func:`steph`."""
    m0 = untrained_model(SIZES, seed=42)
    theta_0 = {name: weight.detach() for name, weight in m0.encoder_state().items()}
    model: nn.Module = plain_module().PlainSteph(
        theta_0, cut(rows[0], SIZES), [cut(row, SIZES) for row in rows[1:]], n_bins=SIZES.n_bins
    )
    return model


def cohort_of(n_bags: int, n_instances: int) -> Cohort:
    """A cohort with bags of noise ``(n_instances, d)``, all in memory."""
    source = torch.Generator().manual_seed(1)
    patients = [Patient(f"P{i:05d}", 365.0 * (i % 12) + 100.0, i % 2, ("S",)) for i in range(n_bags)]
    # Each bag has its own mean; otherwise all bags would select the same sources.
    bags = [
        torch.randn(n_instances, SIZES.width, generator=source) + torch.randn(SIZES.width, generator=source)
        for _ in patients
    ]
    return Cohort.of_bags(patients, bags)


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the recipe, AdamW."""
    return AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
