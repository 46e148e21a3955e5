"""Task vectors ``tau = encoder(M) - encoder(M0)``, with or without the head's risk direction.

Their arithmetic refuses vectors of another architecture or M0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest


@dataclass(frozen=True)
class TaskVector:
    """The difference between a trained encoder and that of M0, over its tensors, and that of their risk directions.

    Sums and products carry the head if either operand has one; a missing head counts as zeros.

    Args:
        architecture: layer sizes of the model and of M0.
        m0_sha256: digest of M0 (:func:`fedsteph.common.model.initial_model.model_digest`).
        tensors: name -> float32 CPU tensor, names and shapes as in ``architecture.encoder_shapes``.
        head: the difference of the two :meth:`.BaseModel.risk_direction`, float32 CPU
            ``(embed,)``; None if it is not shared.

    Raises:
        VectorMismatchError: a tensor is missing, unknown, or has another shape.
    """

    architecture: Architecture
    m0_sha256: str
    tensors: Mapping[str, Tensor]
    head: Tensor | None = None

    def __post_init__(self) -> None:
        expected = self.architecture.encoder_shapes
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if found.get(name) != expected.get(name):
                raise VectorMismatchError(
                    f"expected shape {expected.get(name)}, got {found.get(name)}", where=f"tensor {name}"
                )
        if self.head is not None and tuple(self.head.shape) != (self.architecture.embed,):
            what = f"expected shape {(self.architecture.embed,)}, got {tuple(self.head.shape)}"
            raise VectorMismatchError(what, where="the head's risk direction")

    @classmethod
    def between(cls, model: BaseModel, m0: BaseModel, *, head: bool = False) -> TaskVector:
        """``tau = encoder(model) - encoder(m0)``; :class:`VectorMismatchError` if their architectures differ.

        ``head``: whether it also holds ``direction(model) - direction(m0)``.
        """
        if model.architecture != m0.architecture:
            raise VectorMismatchError(f"the model is {model.architecture}, M0 is {m0.architecture}")
        start = m0.encoder_state()
        return cls(
            model.architecture,
            model_digest(m0),
            {n: (w.detach() - start[n].detach()).cpu() for n, w in model.encoder_state().items()},
            model.risk_direction() - m0.risk_direction() if head else None,
        )

    @classmethod
    def of_flat(cls, row: Tensor, like: TaskVector) -> TaskVector:
        """The vector, without a head, whose :meth:`flat` is ``row`` ``(P,)``, as views; origin as in ``like``."""
        return like._like(cut(row, like.architecture), None)

    def __add__(self, other: TaskVector) -> TaskVector:
        self.require_same_origin(other)
        head = other.head if self.head is None else self.head if other.head is None else self.head + other.head
        return self._like({name: tensor + other.tensors[name] for name, tensor in self.tensors.items()}, head)

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + (-1.0) * other

    def __mul__(self, factor: float) -> TaskVector:
        head = None if self.head is None else factor * self.head
        return self._like({name: factor * tensor for name, tensor in self.tensors.items()}, head)

    __rmul__ = __mul__

    @property
    def norm(self) -> float:
        """L2 norm over all that the vector holds, a head included, accumulated in float64."""
        encoder = float(self.flat().double().norm())
        return encoder if self.head is None else math.hypot(encoder, float(self.head.double().norm()))

    @property
    def has_head(self) -> bool:
        """Whether the vector holds the head's risk direction."""
        return self.head is not None

    def without_head(self) -> TaskVector:
        """The same vector of the encoder alone."""
        return self._like(self.tensors, None)

    def flat(self) -> Tensor:
        """The encoder as one row ``(P,)``, in the architecture's order. Do not write to it: it may be a view."""
        return flatten(self.tensors, self.architecture)

    def applied_to(self, m0: BaseModel, head: Mapping[str, Tensor]) -> BaseModel:
        """A model with encoder ``M0 + tau`` and the given head; :class:`VectorMismatchError` for another M0."""
        if model_digest(m0) != self.m0_sha256:
            raise VectorMismatchError("the vector starts from another M0", where=self.m0_sha256[:12])
        start = m0.encoder_state()
        model = BaseModel(self.architecture, m0.dropout)
        encoder = {name: start[name].detach() + tensor for name, tensor in self.tensors.items()}
        model.load_state_dict({**encoder, **head})
        return model

    def merged_model(self, m0: BaseModel, bias: Tensor) -> BaseModel:
        """A model with encoder ``M0 + tau`` whose bins all have the weights ``direction(M0) + head``.

        Args:
            bias: ``(n_bins,)``, the baseline log-odds; they are fitted at the target and never shared.

        Raises:
            VectorMismatchError: the vector has no head, or starts from another M0.
        """
        if self.head is None:
            remedy = "Set sharing.head so that vectors carry the head's risk direction, or train a head at the target"
            raise VectorMismatchError("the vector has no head to make a model with", remedy=remedy)
        direction = m0.risk_direction() + self.head
        weight = direction.expand(self.architecture.n_bins, -1)
        return self.applied_to(m0, {"head.weight": weight, "head.bias": bias})

    def require_same_origin(self, other: TaskVector) -> None:
        """Refuse a vector of another architecture or another M0.

        Raises:
            VectorMismatchError: they differ; the error says in what.
        """
        if self.architecture != other.architecture:
            what = f"the vectors' architectures differ: {self.architecture} and {other.architecture}"
            raise VectorMismatchError(what, remedy="Train every site with the federation's model section")
        if self.m0_sha256 != other.m0_sha256:
            what = f"the vectors start from different M0: {self.m0_sha256[:12]} and {other.m0_sha256[:12]}"
            remedy = "Vectors of different initialisations must never be mixed; train again from one M0"
            raise VectorMismatchError(what, remedy=remedy)

    def _like(self, tensors: Mapping[str, Tensor], head: Tensor | None) -> TaskVector:
        return TaskVector(self.architecture, self.m0_sha256, tensors, head)


def mean(vectors: Sequence[TaskVector]) -> TaskVector:
    """The arithmetic mean of at least one vector; :class:`VectorMismatchError` if their origins differ."""
    total = vectors[0]
    for vector in vectors[1:]:
        total = total + vector
    return total * (1.0 / len(vectors))


def flatten(tensors: Mapping[str, Tensor], architecture: Architecture) -> Tensor:
    """Encoder tensors as one row ``(P,)``, in the architecture's order; not copied if they already lie in one row."""
    parts = [tensors[name].detach().reshape(-1) for name in architecture.encoder_shapes]
    first, ends = parts[0], list(accumulate(len(part) for part in parts))
    for part, end in zip(parts, ends, strict=True):
        start = first.data_ptr() + (end - len(part)) * first.element_size()
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() or part.data_ptr() != start:
            return torch.cat(parts)
    return first.as_strided((ends[-1],), (1,))


def cut(rows: Tensor, architecture: Architecture) -> dict[str, Tensor]:
    """Inverse of :func:`flatten`, as views: ``(P,)`` -> the tensors; ``(n, P)`` -> each with a leading ``n``."""
    shapes = architecture.encoder_shapes
    pieces = torch.split(rows, [math.prod(shape) for shape in shapes.values()], dim=-1)
    named = zip(shapes.items(), pieces, strict=True)
    return {name: piece.reshape(*rows.shape[:-1], *shape) for (name, shape), piece in named}
