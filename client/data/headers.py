"""Caches headers of feature files in memory, because a run reads the header of every file many times."""

from __future__ import annotations

from pathlib import Path

from fedsteph.client.data.formats import FeatureHeader, read_header
from fedsteph.common.host.unchanged import Unchanged

_known: Unchanged[FeatureHeader] = Unchanged()


def known_header(path: Path) -> FeatureHeader:
    """As :func:`read_header`, with its errors; from memory if the file has not changed since the last call."""
    return _known.get(path, read_header)
