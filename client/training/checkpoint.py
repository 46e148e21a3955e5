"""The state of an unfinished training in a file, from which a killed training resumes."""

from __future__ import annotations

import copy
import hashlib
import io
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedsteph.client.data.bags import Cohort
from fedsteph.common.config.digest import digest
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.errors import ModelFileError
from fedsteph.common.host import checked_file

EVERY_SECONDS = 30.0
_States = tuple[dict[str, Any], dict[str, Any]]  # of model and optimizer


class Checkpoint:
    """The file of one training of one model, which has this :func:`key_of`; ``path`` None: nothing is saved."""

    def __init__(self, path: Path | None, key: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._path = path
        self._key = key
        self._model = model
        self._optimizer = optimizer
        self._saved_at = time.monotonic()

    def resume(self, device: torch.device) -> int:
        """Load the state of model and optimizer, if the file is of this training; return the number of epochs done.

        A damaged file is set aside with a warning, and the training starts again.
        """
        if self._path is None:
            return 0
        return checked_file.kept(self._path, lambda path: self._load(path, device)) or 0

    def _load(self, path: Path, device: torch.device) -> int:
        content, before = checked_file.read_bytes(path), copy.deepcopy(self._states())
        try:
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            if state["key"] != self._key:
                return 0
            self._restore((state["model"], state["optimizer"]))
            return int(state["epoch"])
        except Exception as error:  # a damaged file of an earlier version: torch raises many types
            self._restore(before)
            raise ModelFileError("is damaged", where=path) from error

    def _states(self) -> _States:
        return self._model.state_dict(), self._optimizer.state_dict()

    def _restore(self, states: _States) -> None:
        self._model.load_state_dict(states[0])
        self._optimizer.load_state_dict(states[1])

    def save(self, epoch: int) -> None:
        """Write the state after ``epoch`` epochs, if :data:`EVERY_SECONDS` have passed since the last write."""
        if self._path is None or time.monotonic() - self._saved_at < EVERY_SECONDS:
            return
        buffer, (model, optimizer) = io.BytesIO(), self._states()
        torch.save({"key": self._key, "epoch": epoch, "model": model, "optimizer": optimizer}, buffer)
        checked_file.write_bytes(self._path, buffer.getvalue())
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
