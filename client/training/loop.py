"""Training loop for base models and STEPH: AdamW, linear warm-up and cosine decay to 0 per step, checkpoints.

A training depends only on its data, recipe and seed. Each epoch has its own seed for the order of bags and for
dropout, so a killed training resumes from its last checkpoint, at the end of an epoch, and gives the same weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import head_of
from fedsteph.client.training.checkpoint import Checkpoint, key_of
from fedsteph.client.training.epoch_log import tell
from fedsteph.client.training.loader import Loader
from fedsteph.client.training.objective import Forward, StepLoss, backward, passes
from fedsteph.client.training.optimizer import AdamW
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.errors import TooSmallError, TrainingError
from fedsteph.common.host.allocator import keep_freed_memory
from fedsteph.common.model.precision import FACTORS, factors_in
from fedsteph.common.model.seeded import seeded

_KEPT_BYTES = 256 * 2**20  # of the graphs of one step, which are else computed twice
_ACTIVATIONS = 4096  # numbers per instance, more than the widest of our models keeps


def fit(
    model: nn.Module,
    forward: Forward,
    cohort: Cohort,
    config: TrainingConfig,
    *,
    seed: int,
    run: TrainingRun,
    beside: StepLoss | None = None,
) -> None:
    """Train ``model`` in place.

    Args:
        forward: computes the model's outputs for a batch; ``config`` names the survival loss on them.
        seed: for the order of bags and for dropout.
        run: its checkpoint is resumed if it belongs to this same training.
        beside: a further loss on every step, added to the survival loss.

    Raises:
        TooSmallError: the cohort has no patient to train on.
        TrainingError: the loss is not finite.
        FeatureFileError: as :meth:`Cohort.bag` does.
    """
    keep_freed_memory()
    config = with_least_steps(config, len(cohort))
    model.to(run.device)
    optimizer = AdamW(_groups(model, config.weight_decay), lr=config.lr)
    if len(cohort) == 0:
        raise TooSmallError("there is no patient to train on", where="training part")
    checkpoint = Checkpoint(run.checkpoint, key_of(cohort, config, seed, model), model, optimizer)
    for epoch in range(checkpoint.resume(run.device), config.epochs):
        loss = _epoch(model, optimizer, forward, cohort, config, seed, epoch, run.device, beside)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of epoch {epoch + 1} is not finite", where="training.lr", remedy="Lower it")
        if run.name:
            tell(run.name, epoch + 1, {"loss": loss, "lr": optimizer.param_groups[0]["lr"]})
        if epoch + 1 < config.epochs:
            checkpoint.save(epoch + 1)
        run.progress(epoch + 1, config.epochs)
    model.eval()
    checkpoint.remove()


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    forward: Forward,
    cohort: Cohort,
    config: TrainingConfig,
    seed: int,
    epoch: int,
    device: torch.device,
    beside: StepLoss | None,
) -> float:
    """Train one epoch, from 0; return the mean loss of its steps."""
    order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(len(cohort))
    steps = [step.tolist() for step in _steps(order, config)]
    keep = _fits(model, cohort, steps)
    with (
        factors_in(FACTORS[config.precision]),
        Loader(cohort, steps, head_of(model).out_features, device, passes=passes(config, beside, keep=keep)) as loader,
        seeded(derive_seed(seed, "epoch", epoch), device),
    ):
        model.train()
        loss = torch.zeros((), device=device)
        for i, (step, stacks) in enumerate(zip(steps, loader, strict=True)):
            _set_lr(optimizer, config, epoch * len(steps) + i, len(steps))
            optimizer.zero_grad(set_to_none=True)
            loss += backward(forward, stacks, len(step), config, beside, keep=keep)
            optimizer.step()
    return float(loss) / len(steps)


def _fits(model: nn.Module, cohort: Cohort, steps: Sequence[Sequence[int]]) -> bool:
    """Whether the graphs of a whole step are small; the weights are counted once per bag, as a merge makes them."""
    weights = sum(p.numel() for p in model.parameters())
    activations = max(sum(cohort.n_instances(i) for i in step) for step in steps) * _ACTIVATIONS
    return 4 * (weights * max(map(len, steps)) + activations) <= _KEPT_BYTES


def learning_rate_factor(step: int, total: int, warmup: int) -> float:
    """``step / warmup`` during the warm-up, then half a cosine from 1 to 0 at step ``total``."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def derive_seed(seed: int, *labels: str | int) -> int:
    """Derive an independent 63-bit seed from a base seed and the labels of its purpose."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _steps(order: np.ndarray, config: TrainingConfig) -> list[np.ndarray]:
    steps = [order[i : i + config.batch_bags] for i in range(0, len(order), config.batch_bags)]
    if config.drop_last and len(steps) > 1 and len(steps[-1]) < config.batch_bags:
        steps.pop()
    return steps


def with_least_steps(config: TrainingConfig, n: int) -> TrainingConfig:
    """The configuration with so many epochs that ``n`` bags make at least its least number of steps."""
    per_epoch = len(_steps(np.arange(n), config))
    return replace(config, epochs=max(config.epochs, math.ceil(config.min_steps / max(1, per_epoch))))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _set_lr(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, steps_per_epoch: int) -> None:
    total, warmup = config.epochs * steps_per_epoch, round(config.warmup_epochs * steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = config.lr * learning_rate_factor(step, total, warmup)
