"""Finds values that are readable and hardly true: rows of zeros, one row or one bag again and again, copied slides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_SAMPLED_ROWS = 16


def odd_rows(values: npt.NDArray[np.float32]) -> Iterator[str]:
    """Say what is odd about the features ``(n_instances, d)`` of one slide."""
    n = len(values)
    zero = n - np.count_nonzero(values.any(axis=1))
    if zero:
        yield f"{zero} of its {n} instances are all zero"
    period = _period(values)
    if period == 1 and n > 1:
        yield f"its {n} instances are all the same"
    elif period < n:
        yield f"its first {period} instances come {n // period} times: they were appended again"
    elif values.size > n == 1 and np.ptp(values) == 0:
        yield "its features are all equal"


def _period(values: npt.NDArray[np.float32]) -> int:
    """The number of rows after which all rows come again; the number of rows if they do not."""
    n = len(values)
    for period in np.flatnonzero((values == values[0]).all(axis=1))[1:].tolist():
        if n % period == 0 and (values[period:] == values[:-period]).all():
            return int(period)
    return n


class Copies:
    """Remembers the slides it has seen, by a digest of some rows, and finds those with the same features."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}

    def look(self, slide: str, values: npt.NDArray[np.float32]) -> Iterator[str]:
        """Say which earlier slide has the features ``(n_instances, d)`` of this one."""
        rows = np.linspace(0, len(values) - 1, _SAMPLED_ROWS).astype(int)
        digest = hashlib.sha256(str(values.shape).encode() + values[rows].tobytes()).digest()
        other = self._first.setdefault(digest, slide)
        if other != slide:
            yield f"it has the same features as the slide '{other}'"
