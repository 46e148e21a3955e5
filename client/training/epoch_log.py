"""Logs scalars of every training epoch to the registered listeners, such as TensorBoard event files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsteph.common.errors import ConfigError

Listener = Callable[[str, int, Mapping[str, float]], None]

_listeners: list[Listener] = []


def tell(training: str, epoch: int, scalars: Mapping[str, float]) -> None:
    """Log one epoch of a training, such as ``local, fold 0``, to all listeners: never values of a single patient."""
    for listener in _listeners:
        listener(training, epoch, scalars)


def require_tensorboard(where: str | Path) -> None:
    """Raise ConfigError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        remedy = "pip install 'fedsteph[tensorboard]', or do without it"
        raise ConfigError("asks for TensorBoard, which is not installed", where=where, remedy=remedy)


@contextmanager
def to_tensorboard(folder: Path | None) -> Iterator[None]:
    """Write the scalars logged in this block to event files, one folder per training; None: write nothing."""
    if folder is None:
        yield
        return
    require_tensorboard(folder)
    writers: dict[str, Any] = {}

    def listen(training: str, epoch: int, scalars: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (optional, and seconds to import)

        name = re.sub("[^A-Za-z0-9]+", "-", training).strip("-")
        if name not in writers:
            writers[name] = SummaryWriter(str(folder / name))
        for key, value in scalars.items():
            writers[name].add_scalar(key, value, epoch)
        writers[name].flush()

    _listeners.append(listen)
    try:
        yield
    finally:
        _listeners.remove(listen)
        for writer in writers.values():
            writer.close()
