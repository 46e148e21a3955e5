"""The state of an unfinished training in a file, from which a killed training resumes."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.common.config.recipe import TrainingConfig, digest
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host import atomic

EVERY_SECONDS = 30.0


class Checkpoint:
    """The file of one training of one model.

    Args:
        path: None: nothing is saved.
        key: of this training (:func:`key_of`).
    """

    def __init__(self, path: Path | None, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._path = path
        self._key = key
        self._model = model
        self._optimizer = optimizer
        self._saved_at = time.monotonic()

    def resume(self, device: torch.device) -> int:
        """Load the state of model and optimizer, if the file is of this training; return the number of epochs done.

        Raises:
            ModelFileError: the file is damaged.
        """
        if self._path is None or not self._path.exists():
            return 0
        try:
            state = torch.load(self._path, map_location=device, weights_only=True)
            if state["key"] != self._key:
                return 0
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            return int(state["epoch"])
        except Exception as error:
            raise ModelFileError(
                "the checkpoint is damaged", where=self._path, remedy="Delete it; training starts again"
            ) from error

    def save(self, epoch: int) -> None:
        """Write the state after ``epoch`` epochs, if :data:`EVERY_SECONDS` have passed since the last write."""
        if self._path is None or time.monotonic() - self._saved_at < EVERY_SECONDS:
            return
        buffer, model, optimizer = io.BytesIO(), self._model.state_dict(), self._optimizer.state_dict()
        torch.save({"key": self._key, "epoch": epoch, "model": model, "optimizer": optimizer}, buffer)
        atomic.write_bytes(self._path, buffer.getvalue())
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the training is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def key_of(cohort: Cohort, config: TrainingConfig, seed: int, model: nn.Module) -> str:
    """Digest of everything that determines a training, so that a checkpoint of another one is not resumed."""
    hasher = hashlib.sha256(f"{digest(config)}/{seed}/{type(model).__name__}".encode())
    for patient in cohort.patients:
        hasher.update(repr(patient).encode())
    for name, parameter in model.named_parameters():
        hasher.update(name.encode())
        hasher.update(parameter.detach().cpu().numpy().tobytes())
    return hasher.hexdigest()
