"""Memory-maps each received vector from an unlinked temporary file, so that a merge loads only the vectors it uses.

Memory use then does not grow with the number of sources. The file is unlinked before its vector is returned: the
space is freed when the process ends, and a vector that may not be kept does not stay on the target's disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedsteph.common.host.disk import writing
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.task_vector import TaskVector, cut


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


@dataclass(frozen=True)
class HandedVector:
    """Where another process of this site finds a vector: its encoder in a file, its small head here."""

    path: Path
    architecture: Architecture
    m0_sha256: str
    head: np.ndarray | None

    def open(self) -> TaskVector:
        """The vector, memory-mapped; the file may be removed then."""
        row = torch.from_file(str(self.path), size=self.path.stat().st_size // 4)
        head = None if self.head is None else torch.from_numpy(self.head)
        return TaskVector(self.architecture, self.m0_sha256, cut(row, self.architecture), head)


def handed(vectors: Mapping[str, TaskVector], folder: Path) -> dict[str, HandedVector]:
    """Write vectors into a folder, for other processes of this site to map; by the same names.

    Raises:
        StorageError: a file cannot be written.
    """
    found = {}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for i, (name, vector) in enumerate(vectors.items()):
            path = folder / f"{i}.part"
            path.write_bytes(vector.flat().numpy().data.cast("B"))
            head = None if vector.head is None else vector.head.numpy()
            found[name] = HandedVector(path, vector.architecture, vector.m0_sha256, head)
    return found
