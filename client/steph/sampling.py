"""Samples instances for routing: the hypernetworks see only a random, seeded subset of a large bag.

Every position in a bag has a fixed random key, and the subset is the positions with the smallest keys. So it is a
uniform random subset, and always the same for a bag: in training and prediction, alone or padded in a stack.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SEED = 20_260_310
_LEAST = 2**16
_longest: dict[torch.device, Tensor] = {}  # per device: keys for the longest bag so far


def sampled(bags: Tensor, mask: Tensor | None, m: int) -> tuple[Tensor, Tensor | None]:
    """Select at most ``m`` instances of each bag, with their mask, which is None if nothing is padded.

    ``bags (n_bags, n_instances, d) -> (n_bags, m, d)``; the arguments if no bag is larger than ``m``.
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
        # NumPy draws in sequence, so the keys of a longer bag begin with those of a shorter one.
        length = max(_LEAST, 2 ** (n - 1).bit_length())
        _longest[device] = torch.from_numpy(np.random.default_rng(_SEED).random(length)).to(device)
    return _longest[device][:n]
