"""A training that kills itself: ``python killed_training.py CHECKPOINT STEP`` (for test_loop)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from client_builders import CPU, SMALL, make_cohort

from fedsteph.client.training import checkpoint as training_checkpoint
from fedsteph.client.training.loop import fit
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.host.progress import silent
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model

CONFIG = TrainingConfig(epochs=4, lr=1e-2, batch_bags=4)
SIZES = [3, 7, 1, 5, 2, 9, 4, 6, 3, 8, 2, 5]  # 3 steps an epoch


def train(checkpoint: Path | None, on_call=lambda n: None, progress=silent, **changes) -> BaseModel:
    """The training, with dropout; ``on_call`` is told the number of the model's call, from 1."""
    model = untrained_model(SMALL, seed=1, dropout=0.5)
    calls = 0

    def forward(batch):
        nonlocal calls
        calls += 1
        on_call(calls)
        return Outputs(model(batch.bags, batch.mask))

    options = {"cohort": make_cohort(SIZES), "config": CONFIG, "seed": 5, **changes}
    fit(model, forward, run=TrainingRun(CPU, checkpoint, progress), **options)
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    training_checkpoint.EVERY_SECONDS = 0
    at = int(sys.argv[2])
    train(Path(sys.argv[1]), lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == at else None)
