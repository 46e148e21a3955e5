"""Task vectors ``tau = encoder(M) - encoder(M0)``, whose arithmetic refuses vectors of another architecture or M0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.model.abmil import ABMIL, Architecture, model_digest


@dataclass(frozen=True)
class TaskVector:
    """The difference between a trained encoder and that of M0, over its 8 tensors.

    Args:
        architecture: layer sizes of the model and of M0.
        m0_sha256: digest of M0 (:func:`fedsteph.common.model.abmil.model_digest`).
        tensors: name -> float32 CPU tensor, names and shapes as in ``architecture.encoder_shapes``.

    Raises:
        VectorMismatchError: a tensor is missing, unknown, or has another shape.
    """

    architecture: Architecture
    m0_sha256: str
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        expected = self.architecture.encoder_shapes
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if found.get(name) != expected.get(name):
                raise VectorMismatchError(
                    f"expected shape {expected.get(name)}, got {found.get(name)}", where=f"tensor {name}"
                )

    @classmethod
    def between(cls, model: ABMIL, m0: ABMIL) -> TaskVector:
        """``tau = encoder(model) - encoder(m0)``; :class:`VectorMismatchError` if their architectures differ."""
        if model.architecture != m0.architecture:
            raise VectorMismatchError(f"the model is {model.architecture}, M0 is {m0.architecture}")
        start = m0.encoder_state()
        return cls(
            model.architecture,
            model_digest(m0),
            {n: (w.detach() - start[n].detach()).cpu() for n, w in model.encoder_state().items()},
        )

    @classmethod
    def of_flat(cls, row: Tensor, like: TaskVector) -> TaskVector:
        """The vector whose :meth:`flat` is ``row`` ``(P,)``, as views of it; architecture and M0 as in ``like``."""
        return like._like(cut(row, like.architecture))

    def __add__(self, other: TaskVector) -> TaskVector:
        self.require_same_origin(other)
        return self._like({name: tensor + other.tensors[name] for name, tensor in self.tensors.items()})

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + (-1.0) * other

    def __mul__(self, factor: float) -> TaskVector:
        return self._like({name: factor * tensor for name, tensor in self.tensors.items()})

    __rmul__ = __mul__

    @property
    def norm(self) -> float:
        """L2 norm over all tensors, accumulated in float64."""
        return float(self.flat().double().norm())

    def flat(self) -> Tensor:
        """All tensors as one row ``(P,)``, in the architecture's order. Do not write to it: it may be a view."""
        return flatten(self.tensors, self.architecture)

    def applied_to(self, m0: ABMIL, head: Mapping[str, Tensor]) -> ABMIL:
        """A model with encoder ``M0 + tau`` and the given head; :class:`VectorMismatchError` for another M0."""
        if model_digest(m0) != self.m0_sha256:
            raise VectorMismatchError("the vector starts from another M0", where=self.m0_sha256[:12])
        start = m0.encoder_state()
        model = ABMIL(self.architecture, m0.dropout)
        encoder = {name: start[name].detach() + tensor for name, tensor in self.tensors.items()}
        model.load_state_dict({**encoder, **head})
        return model

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

    def _like(self, tensors: Mapping[str, Tensor]) -> TaskVector:
        return TaskVector(self.architecture, self.m0_sha256, tensors)


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
    """Inverse of :func:`flatten`, as views: ``(P,)`` -> the 8 tensors; ``(n, P)`` -> each with a leading ``n``."""
    shapes = architecture.encoder_shapes
    pieces = torch.split(rows, [math.prod(shape) for shape in shapes.values()], dim=-1)
    named = zip(shapes.items(), pieces, strict=True)
    return {name: piece.reshape(*rows.shape[:-1], *shape) for (name, shape), piece in named}
