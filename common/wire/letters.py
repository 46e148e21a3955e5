"""How many envelopes there can be, how large they are, how they are named, and how many bytes travel at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fedsteph.common.config.recipe import ModelConfig, SharingConfig
from fedsteph.common.config.require import require
from fedsteph.common.config.run_config import require_name
from fedsteph.common.vector.shared_part import shared_bytes

MOST_LETTERS = 10_000  # in one message, and so of one target in one run
MOST_ENVELOPE_BYTES = 256 << 20  # a vector of the default sizes takes 4.7 MB
IN_THE_AIR = 128 << 20  # bytes of envelopes in all messages that are on their way at once; a larger one travels alone
_MOST_ADDED = 1 << 16  # bytes of a vector file's header, the statement and the envelope; a few thousand in fact
_HEX = re.compile("[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True)
class Letter:
    """An envelope as a merge names it: its sender, and the SHA-256 of its bytes."""

    sender: str
    sha256: str

    def __post_init__(self) -> None:
        require_name(self.sender)
        require(_HEX.fullmatch(self.sha256) is not None, "sha256", "64 hexadecimal digits")


def most_bytes(model: ModelConfig, sharing: SharingConfig) -> int:
    """The bytes that no envelope with a vector of this model exceeds; ``model.width`` must be set."""
    return shared_bytes(model, sharing, head=sharing.head != "never") + _MOST_ADDED


def in_groups(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Split items, in their order, into groups of at most :data:`IN_THE_AIR` bytes; a larger item is a group alone."""
    group: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if group and total + size > IN_THE_AIR:
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group
