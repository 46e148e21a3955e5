"""Loads the bags of an epoch step by step: prefetches across steps, and keeps stacks for a second pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Self

import torch

from fedsteph.client.data.bags import Cohort
from fedsteph.client.training.batch import Batch, groups_of, prefetched, stack_bytes
from fedsteph.client.training.objective import Stacks

KEPT_BYTES = 256 * 2**20  # limit of a step's stacks kept for its second pass; the others are loaded again


class Loader:
    """Iterates over the steps of an epoch, and gives the stacks of each step.

    Use it as a context manager: leaving the block ends the background thread. Make all passes over a step before
    requesting the next step. A header that cannot be read raises FeatureFileError; iterating, as :meth:`Cohort.bag`.

    Args:
        steps: the indices of each step's bags.
        passes: the number of passes over each step's stacks.
    """

    def __init__(
        self, cohort: Cohort, steps: Sequence[Sequence[int]], n_bins: int, device: torch.device, *, passes: int = 1
    ) -> None:
        self._steps: list[tuple[list[list[int]], int]] = []  # per step: its groups, and how many are kept
        plan = []
        for step in steps:
            groups = list(groups_of(cohort, step))
            sizes = accumulate(stack_bytes(cohort, group) for group in groups)
            kept = sum(size <= KEPT_BYTES for size in sizes) if passes > 1 else 0
            self._steps.append((groups, kept))
            plan += groups + groups[kept:] * (passes - 1)
        self._started = time.perf_counter()
        self._stacks = prefetched(cohort, plan, n_bins, device)

    @property
    def waiting_share(self) -> float:
        """Share of the time since the start that was spent waiting for data."""
        return self._stacks.waited / self.seconds

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def __iter__(self) -> Iterator[Stacks]:
        for groups, n_kept in self._steps:
            yield self._step(len(groups), n_kept)

    def _step(self, n: int, n_kept: int) -> Stacks:
        kept: list[tuple[list[int], Batch]] = []

        def stacks() -> Iterator[tuple[list[int], Batch]]:
            first = len(kept)
            yield from kept[:]
            for i in range(first, n):
                stack = next(self._stacks).received()
                if i < n_kept:
                    kept.append(stack)
                yield stack

        return stacks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stacks.close()
