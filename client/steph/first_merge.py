"""The merge at which STEPH's training starts under ``start: local``: the best rule known without training."""

from __future__ import annotations

from collections.abc import Sequence

from fedsteph.common.config.recipe import StephConfig

_HARDLY = 1e-3  # w of a source that the first merge leaves out: training can still find it


def first_merge(config: StephConfig, headed: Sequence[bool]) -> tuple[list[float], list[float]]:
    """The first ``w`` and ``lam`` of every source, before the hypernetworks add to them.

    Where sources share heads, the target's vector and each of theirs are summed, all with the coefficient
    ``start_sum``, and the other sources are left out. Where none does, the encoders are averaged: the kept ``w`` sum up
    to ``start_mass``, and every ``lam`` is ``start_lam``.

    Args:
        headed: of every source, whether its vector holds the head's risk direction.
    """
    n, n_headed = len(headed), sum(headed)
    if n_headed:
        w = config.start_sum * (1 + n_headed) / n_headed
        share = 1.0 / (1 + n_headed)
        return [w if one else _HARDLY for one in headed], [share if one else config.start_lam for one in headed]
    return [config.start_mass / min(config.K or n, n)] * n, [config.start_lam] * n
