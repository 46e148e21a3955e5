"""Defines which part of M0's encoder private training changes, as one flat vector of parameters.

Fewer parameters mean less noise: its norm grows with the square root of their number, and a few hundred patients give
little signal. ``direction`` is the smallest part that learns a risk: ``W = W0 + v beta^T``, where ``v`` is the weight
vector of M0's head, averaged over its bins and scaled to norm 1. All sites share M0, so ``v`` is public and the same
everywhere; ``beta (d,)`` has one number per feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsteph.client.privacy.dp_settings import Part
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector


@dataclass(frozen=True)
class TrainedPart:
    """The trained part of M0's encoder, and how its parameters change the encoder."""

    m0: BaseModel
    part: Part

    @property
    def size(self) -> int:
        """Number of trained parameters; ConfigError if the kind of base model has no such part."""
        if self.part == "direction":
            self._along_z()
            return self.m0.architecture.width
        return sum(math.prod(shape) for shape in self._shapes().values())

    @property
    def readout(self) -> Tensor:
        """M0's head weights, averaged over bins, ``(embed,)``; all log-odds are ``z @ readout`` plus a level."""
        return self.m0.head.weight.detach().mean(dim=0)

    def encoders(self, offsets: Tensor) -> dict[str, Tensor]:
        """Turn offsets from M0 ``(n_bags, size)`` into one encoder per bag: tensors with a leading ``n_bags``."""
        n, m0 = len(offsets), self.m0.encoder_state()
        start = {name: tensor.detach().to(offsets).expand(n, *tensor.shape) for name, tensor in m0.items()}
        return start | {name: start[name] + change for name, change in self._changes(offsets).items()}

    def vector(self, offset: Tensor, m0_sha256: str) -> TaskVector:
        """The task vector of one offset ``(size,)``, in float32."""
        shapes = self.m0.architecture.encoder_shapes
        tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
        tensors |= {name: change[0].float() for name, change in self._changes(offset.unsqueeze(0)).items()}
        return TaskVector(self.m0.architecture, m0_sha256, tensors)

    def _changes(self, offsets: Tensor) -> Mapping[str, Tensor]:
        if self.part == "direction":
            v = self.readout / self.readout.norm()
            return {self._along_z(): v.to(offsets).view(1, -1, 1) * offsets.unsqueeze(1)}
        shapes = self._shapes()
        pieces = torch.split(offsets, [math.prod(shape) for shape in shapes.values()], dim=1)
        return {name: piece.reshape(-1, *shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        architecture = self.m0.architecture
        every, kind = architecture.encoder_shapes, architecture.encoder_kind
        return {name: shape for name, shape in every.items() if kind.is_of(self.part, name)}

    def _along_z(self) -> str:
        """The matrix that ``direction`` changes; ConfigError if the kind of base model has none."""
        kind = self.m0.architecture.encoder_kind
        if kind.direction is None:
            what = f"direction is no part of {kind.title}: hidden layers lie between its first one and z"
            raise ConfigError(what, where="dp_sgd.trains", remedy="Set it to embed, attention or encoder")
        return kind.direction
