"""Training loop for base models and STEPH: AdamW, linear warm-up and cosine decay to 0 per step, checkpoints.

A training depends only on its data, recipe and seed. Each epoch has its own seed for the order of bags and for
dropout, so a killed training resumes from its last checkpoint, at the end of an epoch, and gives the same weights.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import head_of
from fedsteph.client.training.epoch_log import tell
from fedsteph.client.training.loader import Loader
from fedsteph.client.training.objective import Forward, backward, passes
from fedsteph.common.config.recipe import TrainingConfig, digest
from fedsteph.common.errors import ModelFileError, TooSmallError, TrainingError
from fedsteph.common.host import atomic
from fedsteph.common.model.precision import FACTORS, factors_in


@dataclass(frozen=True)
class Checkpoint:
    """File of an unfinished training, written after an epoch if ``every_seconds`` have passed since the last write."""

    path: Path
    every_seconds: float = 30.0


def fit(
    model: nn.Module,
    forward: Forward,
    cohort: Cohort,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
    name: str = "",
) -> None:
    """Train ``model`` in place.

    Args:
        forward: computes the model's outputs for a batch; ``config`` names the survival loss on them.
        seed: for the order of bags and for dropout.
        checkpoint: resumed if it belongs to this same training; removed at the end.
        on_epoch: called with the number of epochs done and the total.
        name: logs each epoch's mean loss under it (:mod:`fedsteph.client.training.epoch_log`); empty: no log.

    Raises:
        TooSmallError: the cohort has no patient to train on.
        TrainingError: the loss is not finite.
        ModelFileError: the checkpoint is damaged.
        FeatureFileError: as :meth:`Cohort.bag` does.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay), lr=config.lr)
    steps_per_epoch = len(_steps(np.arange(len(cohort)), config))
    if steps_per_epoch == 0:
        raise TooSmallError("there is no patient to train on", where="training part")
    key = _key(cohort, config, seed, model)
    epoch = _resume(checkpoint, key, model, optimizer, device)
    saved_at = time.monotonic()
    while epoch < config.epochs:
        order = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(len(cohort))
        steps = [step.tolist() for step in _steps(order, config)]
        with (
            _seeded(derive_seed(seed, "epoch", epoch), device),
            factors_in(FACTORS[config.precision]),
            Loader(cohort, steps, head_of(model).out_features, device, passes=passes(config)) as loader,
        ):
            model.train()
            epoch_loss = torch.zeros((), device=device)
            for i, (step, stacks) in enumerate(zip(steps, loader, strict=True)):
                _set_lr(optimizer, config, epoch * steps_per_epoch + i, steps_per_epoch)
                optimizer.zero_grad(set_to_none=True)
                epoch_loss += backward(forward, stacks, len(step), config)
                optimizer.step()
        epoch += 1
        if not bool(torch.isfinite(epoch_loss)):
            raise TrainingError(f"the loss of epoch {epoch} is not finite", where="training.lr", remedy="Lower it")
        if name:
            tell(name, epoch, {"loss": float(epoch_loss) / len(steps), "lr": optimizer.param_groups[0]["lr"]})
        if checkpoint and epoch < config.epochs and time.monotonic() - saved_at >= checkpoint.every_seconds:
            _save(checkpoint, key, epoch, model, optimizer)
            saved_at = time.monotonic()
        on_epoch(epoch, config.epochs)
    model.eval()
    if checkpoint:
        checkpoint.path.unlink(missing_ok=True)


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


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _key(cohort: Cohort, config: TrainingConfig, seed: int, model: nn.Module) -> str:
    """Digest of everything that determines a training, so that a checkpoint of another one is not resumed."""
    hasher = hashlib.sha256(f"{digest(config)}/{seed}/{type(model).__name__}".encode())
    for patient in cohort.patients:
        hasher.update(repr(patient).encode())
    for name, parameter in model.named_parameters():
        hasher.update(name.encode())
        hasher.update(parameter.detach().cpu().numpy().tobytes())
    return hasher.hexdigest()


def _save(checkpoint: Checkpoint, key: str, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    buffer = io.BytesIO()
    state = {"key": key, "epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, buffer)
    atomic.write_bytes(checkpoint.path, buffer.getvalue())


def _resume(
    checkpoint: Checkpoint | None,
    key: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> int:
    if checkpoint is None or not checkpoint.path.exists():
        return 0
    try:
        state = torch.load(checkpoint.path, map_location=device, weights_only=True)
        if state["key"] != key:
            return 0
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["epoch"])
    except Exception as error:
        raise ModelFileError(
            "the checkpoint is damaged", where=checkpoint.path, remedy="Delete it; training starts again"
        ) from error
