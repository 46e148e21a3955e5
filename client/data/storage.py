"""The decision where a cohort's features are read from: memory, the site's own disk, or their files every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from client.data.settings import DataSettings

Keep = Literal["stored", "float16"]


@dataclass(frozen=True)
class Storage:
    """What is decided for one cohort; as text a sentence for its user, without a path or an ID.

    Args:
        n_bytes: of all bags as float32.
        cache_gib: the memory for bags.
        keep: how features are kept on disk; None: they are not.
    """

    n_bytes: int
    cache_gib: float
    keep: Keep | None

    @classmethod
    def of(cls, settings: DataSettings, n_bytes: int) -> Storage:
        """The settings' answer for a cohort of this size."""
        keep: Keep | None = None
        if settings.disk_cache == "auto":
            keep = None if n_bytes <= settings.cache_gib * 2**30 else "stored"
        elif settings.disk_cache != "never":
            keep = settings.disk_cache
        return cls(n_bytes, settings.cache_gib, keep)

    def __str__(self) -> str:
        size = f"features: {_size(self.n_bytes)}"
        fits = self.n_bytes <= self.cache_gib * 2**30
        if fits and self.keep is None:
            return f"{size}, held in memory"
        if not fits:
            size += f", more than data.cache_gib ({self.cache_gib:g} GiB)"
        if self.keep is None:
            return f"{size}: read from their files again and again"
        return f"{size}: kept {'as stored' if self.keep == 'stored' else 'as float16'} on disk, in the state folder"


def _size(n_bytes: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if n_bytes >= 2**power / 10:
            return f"{n_bytes / 2**power:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} KiB"
