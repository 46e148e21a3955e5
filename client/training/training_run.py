"""Where and how a training runs, as opposed to what is trained: nothing here changes a training's result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fedsteph.common.host.progress import Progress, silent


@dataclass(frozen=True)
class TrainingRun:
    """How to carry out one training.

    Args:
        checkpoint: file of the unfinished training, from which it resumes; removed at the end. None: none is written.
        progress: in epochs, or in steps of DP-SGD.
        name: logs each epoch under it (:mod:`fedsteph.client.training.epoch_log`); empty: no log.
    """

    device: torch.device
    checkpoint: Path | None = None
    progress: Progress = silent
    name: str = ""
