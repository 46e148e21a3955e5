"""Makes poisoned vectors without training, from the vector that the source would have sent."""

from __future__ import annotations

import torch

from fedsteph.common.vector.task_vector import TaskVector

_LARGE = 10.0  # factor on the norm in the attacks that scale; the norm stays below the cap of the vector file's reader


def sign_flip(honest: TaskVector) -> TaskVector:
    """``-tau``: reverses what the source learned; the norm is that of the honest vector."""
    return -1.0 * honest


def boosted(honest: TaskVector) -> TaskVector:
    """``10 tau``: one source dominates all others."""
    return _LARGE * honest


def random_direction(honest: TaskVector, seed: int) -> TaskVector:
    """A Gaussian random vector, each tensor with the norm of the honest one, so that norms do not reveal it."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in honest.tensors.items()}
    scaled = {name: draw * (honest.tensors[name].norm() / draw.norm()) for name, draw in drawn.items()}
    return TaskVector(honest.architecture, honest.m0_sha256, scaled)


def noise(honest: TaskVector, seed: int) -> TaskVector:
    """A random direction with 10 times the norm of the honest vector."""
    return _LARGE * random_direction(honest, seed)


def without(vector: TaskVector, direction: TaskVector) -> TaskVector:
    """The component of a vector that is orthogonal to ``direction``."""
    a, b = vector.flat().double(), direction.flat().double()
    return vector - float(a @ b / (b @ b)) * direction


def of_norm(vector: TaskVector, norm: float) -> TaskVector:
    """The vector scaled to an L2 norm."""
    return vector * (norm / vector.norm)


def flipped_in_part(honest: TaskVector, cosine: float, seed: int) -> TaskVector:
    """A vector of the honest one's norm at this cosine to it (-1: the flip, 1: itself), and random across it."""
    norm = honest.norm
    aside = of_norm(without(random_direction(honest, seed), honest), norm)
    return cosine * honest + float((1.0 - cosine**2) ** 0.5) * aside
