"""Poisoned vectors that need no training: each is made of the one that the source would have sent."""

from __future__ import annotations

import torch

from fedsteph.common.vector.task_vector import TaskVector

_LARGE = 10.0  # how much longer than the honest vector an attack of size is; below the reader's cap on the norm


def sign_flip(honest: TaskVector) -> TaskVector:
    """``-tau``: what the source learned, unlearned; of honest norm."""
    return -1.0 * honest


def boosted(honest: TaskVector) -> TaskVector:
    """``10 tau``: one source outweighs all the others."""
    return _LARGE * honest


def random_direction(honest: TaskVector, seed: int) -> TaskVector:
    """A normal draw, each tensor as long as the honest one's, so that no norm gives it away."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in honest.tensors.items()}
    scaled = {name: draw * (honest.tensors[name].norm() / draw.norm()) for name, draw in drawn.items()}
    return TaskVector(honest.architecture, honest.m0_sha256, scaled)


def noise(honest: TaskVector, seed: int) -> TaskVector:
    """A random direction ten times as long as the honest vector."""
    return _LARGE * random_direction(honest, seed)


def without(vector: TaskVector, direction: TaskVector) -> TaskVector:
    """What of a vector is orthogonal to a direction."""
    a, b = vector.flat().double(), direction.flat().double()
    return vector - float(a @ b / (b @ b)) * direction


def of_norm(vector: TaskVector, norm: float) -> TaskVector:
    """The vector's direction at another length."""
    return vector * (norm / vector.norm)


def flipped_in_part(honest: TaskVector, cosine: float, seed: int) -> TaskVector:
    """A vector of honest norm with a chosen cosine to the honest one; the rest of it is random.

    Args:
        cosine: -1 is the sign flip, 0 orthogonal, 1 the honest vector.
    """
    norm = honest.norm
    aside = of_norm(without(random_direction(honest, seed), honest), norm)
    return cosine * honest + float((1.0 - cosine**2) ** 0.5) * aside
