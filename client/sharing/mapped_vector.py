"""Received vectors as pages of files that nobody can open any more: a merge reads the few that it uses.

However many sources there are, what is read into memory is what is merged. A file has lost its name before its vector
is handed on: no vector lies in the clear beside the target's work, and its room is free when the process has ended.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from fedsteph.common.vector.task_vector import TaskVector


def mapped(vector: TaskVector, folder: Path) -> TaskVector:
    """Write a vector to a nameless file and give it back as that file's pages, bit for bit.

    Args:
        folder: on the disk that has room for it.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row = vector.flat()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".vector.", suffix=".part") as file:
        file.write(row.numpy().data.cast("B"))
        file.flush()
        return TaskVector.of_flat(torch.from_file(file.name, size=len(row)), vector)
