"""Memory-maps each received vector from an unlinked temporary file, so that a merge loads only the vectors it uses.

Memory use then does not grow with the number of sources. The file is unlinked before its vector is returned: the
space is freed when the process ends, and a vector that may not be kept does not stay on the target's disk.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from fedsteph.common.host.disk import writing
from fedsteph.common.vector.task_vector import TaskVector


def mapped(vector: TaskVector, folder: Path) -> TaskVector:
    """Write a vector to an unlinked temporary file in ``folder``, and return it memory-mapped, identical bit for bit.

    Raises:
        StorageError: the file cannot be written.
    """
    row = vector.flat()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".vector.", suffix=".part") as file:
            file.write(row.numpy().data.cast("B"))
            file.flush()
            encoder = TaskVector.of_flat(torch.from_file(file.name, size=len(row)), vector)
            return replace(encoder, head=vector.head)  # a head is small: it stays in memory
