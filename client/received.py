"""Received vectors, on the target's disk and mapped into memory: a merge reads the few that it uses.

They lie beside the target's other work, in the clear, as its enhanced models hold them too; a new run's vectors take
the place of the last one's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from common import atomic
from common.task_vector import TaskVector

FOLDER = "received"


class Received:
    """Where the vectors of one run are kept.

    Args:
        state: the target's state folder.
        run: the run's ID.
    """

    def __init__(self, state: Path, run: str) -> None:
        self._folder = state / FOLDER / run
        for other in sorted((state / FOLDER).glob("*")):
            if other != self._folder:
                shutil.rmtree(other)

    def mapped(self, sender: str, vector: TaskVector) -> TaskVector:
        """Write a vector to its file and give it back as that file's pages, which the system reads when they are used.

        Args:
            sender: a site's name.
        """
        path, row = self._folder / f"{sender}.f32", vector.flat()
        atomic.write_bytes(path, row.numpy().data.cast("B"))
        return TaskVector.of_flat(torch.from_file(str(path), size=len(row)), vector)
