"""Sampled routing: the hypernetworks look at a random, seeded part of a large bag, and at nothing else.

Every position of a bag has a fixed key, and the part is the positions with the smallest keys. So it is a uniformly
drawn subset, the same whenever the bag comes by, in training and in prediction, alone or padded among others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SEED = 20_260_310
_LEAST = 2**16
_longest: dict[torch.device, Tensor] = {}  # a device's keys, as many as any bag has needed


def sampled(bags: Tensor, mask: Tensor | None, m: int) -> tuple[Tensor, Tensor | None]:
    """At most ``m`` instances of each bag, with the mask of those that are real.

    Args:
        bags: ``(n_bags, n_instances, d)``.
        mask: ``(n_bags, n_instances)``, True at real instances; None where nothing is padded.

    Returns:
        ``(n_bags, m, d)`` and ``(n_bags, m)``; what was given, where no bag is larger than ``m``.
    """
    n = bags.shape[1]
    if n <= m:
        return bags, mask
    keys = _keys(n, bags.device)
    if mask is None:
        return bags[:, keys.topk(m, largest=False).indices], None
    part = torch.where(mask, keys, 2.0).topk(m, largest=False).indices
    return bags.take_along_dim(part.unsqueeze(2), dim=1), mask.gather(1, part)


def _keys(n: int, device: torch.device) -> Tensor:
    if device not in _longest or len(_longest[device]) < n:
        # A longer bag's keys begin with a shorter one's: numpy's generators draw one after the other.
        length = max(_LEAST, 2 ** (n - 1).bit_length())
        _longest[device] = torch.from_numpy(np.random.default_rng(_SEED).random(length)).to(device)
    return _longest[device][:n]
