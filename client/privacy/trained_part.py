"""What private training changes of M0's encoder, as one row of numbers that gradients are taken of.

The fewer numbers, the less noise: its length grows with their root, and a few hundred patients say little.
``direction`` is the smallest part that learns a risk: ``W = W0 + v beta^T``, where ``v`` is the unit vector that M0's
head, averaged over its bins, reads off the embedding. All sites share M0, so ``v`` is public and the same everywhere;
``beta`` has as many numbers as an instance has features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsteph.client.privacy.dp_settings import Part
from fedsteph.common.model.abmil import ABMIL
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class TrainedPart:
    """A part of M0's encoder, and how its numbers change the whole."""

    m0: ABMIL
    part: Part

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        if self.part == "direction":
            return self.m0.architecture.width
        return sum(math.prod(shape) for shape in self._shapes().values())

    @property
    def readout(self) -> Tensor:
        """M0's head, averaged over its bins: ``(embed,)``; the log-odds of every bin are its product with z."""
        return self.m0.head.weight.detach().mean(dim=0)

    def encoders(self, offsets: Tensor) -> dict[str, Tensor]:
        """An encoder per bag: ``(n_bags, size)`` offsets from M0 to its 8 tensors, each with a leading ``n_bags``."""
        n, m0 = len(offsets), self.m0.encoder_state()
        start = {name: tensor.detach().to(offsets).expand(n, *tensor.shape) for name, tensor in m0.items()}
        return start | {name: start[name] + change for name, change in self._changes(offsets).items()}

    def vector(self, offset: Tensor, m0_sha256: str) -> TaskVector:
        """The task vector of one offset ``(size,)``, float32."""
        shapes = self.m0.architecture.encoder_shapes
        tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
        tensors |= {name: change[0].float() for name, change in self._changes(offset.unsqueeze(0)).items()}
        return TaskVector(self.m0.architecture, m0_sha256, tensors)

    def _changes(self, offsets: Tensor) -> Mapping[str, Tensor]:
        if self.part == "direction":
            v = self.readout / self.readout.norm()
            return {"embed.weight": v.to(offsets).view(1, -1, 1) * offsets.unsqueeze(1)}
        shapes = self._shapes()
        pieces = torch.split(offsets, [math.prod(shape) for shape in shapes.values()], dim=1)
        return {
            name: piece.reshape(len(offsets), *shape)
            for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        every = self.m0.architecture.encoder_shapes
        return {name: shape for name, shape in every.items() if self.part == "encoder" or name.startswith(self.part)}
