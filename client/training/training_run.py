"""Where and how a training runs, as opposed to what is trained: nothing here changes a training's result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fedsteph.common.host.progress import Progress, silent


@dataclass(frozen=True)
class TrainingRun:
    """How to carry out one training."""

    device: torch.device
    checkpoint: Path | None = None  # file of the unfinished training, from which it resumes; None: none is written
    progress: Progress = silent  # in epochs, or in steps of DP-SGD
    name: str = ""  # each epoch is logged under it (epoch_log.py); empty: no log
