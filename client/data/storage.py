"""Decides where training reads features from: memory, a cache on disk, or the feature files each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsteph.client.data.settings import DataSettings
from fedsteph.common.errors import StorageError

Keep = Literal["stored", "float16"]


@dataclass(frozen=True)
class Storage:
    """The decision for one cohort; ``str()`` gives a sentence for the user, without paths or IDs."""

    n_bytes: int  # size of all bags as float32
    cache_gib: float  # memory for bags, in GiB
    keep: Keep | None  # how features are cached on disk; None: not at all
    no_room: bool = False  # whether the disk is too small for the cache

    @classmethod
    def of(cls, settings: DataSettings, n_bytes: int, free: int | None = None) -> Storage:
        """Decide for a cohort of ``n_bytes`` as the settings say.

        Args:
            free: bytes of disk that the cache may use, including those that it uses already; ``auto`` caches
                nothing if they are too few. None: not checked.

        Raises:
            StorageError: the settings require a disk cache, and there is no space for it.
        """
        if settings.disk_cache == "never":
            return cls(n_bytes, settings.cache_gib, None)
        wanted = n_bytes // 2 if settings.disk_cache == "float16" else n_bytes
        no_room = free is not None and wanted > free
        if settings.disk_cache == "auto":
            keep: Keep | None = None if n_bytes <= settings.cache_gib * 2**30 or no_room else "stored"
            return cls(n_bytes, settings.cache_gib, keep, no_room)
        if no_room:
            raise StorageError(
                f"the features need {_size(wanted)}, and there is room for {_size(free or 0)}",
                where="data.disk_cache",
                remedy="Make room, name another 'state' folder in site.yaml, or set data.disk_cache to never",
            )
        return cls(n_bytes, settings.cache_gib, settings.disk_cache)

    def __str__(self) -> str:
        size = f"features: {_size(self.n_bytes)}"
        fits = self.n_bytes <= self.cache_gib * 2**30
        if fits and self.keep is None:
            return f"{size}, held in memory"
        if not fits:
            size += f", more than data.cache_gib ({self.cache_gib:g} GiB)"
        if self.keep is None:
            why = "; there is no room to keep them on disk" if self.no_room else ""
            return f"{size}: read from their files again and again{why}"
        return f"{size}: kept {'as stored' if self.keep == 'stored' else 'as float16'} on disk, in the state folder"


def _size(n_bytes: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if n_bytes >= 2**power / 10:
            return f"{n_bytes / 2**power:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} KiB"
