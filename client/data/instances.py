"""What a base model asks of a bag: all instances or a draw of them, and for a graph their neighbours in space.

The draw is seeded by the number of instances alone, so a bag has the same instances in training and in prediction, and
they keep their order. Neighbours are the nearest patches of the same slide by their coords.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.formats import read_coords
from fedsteph.common.host import checked_file
from fedsteph.common.model.architecture import Architecture

GRAPHS = "neighbour-cache"  # in the state folder, beside the features'
_FORMAT = "fedsteph/neighbours/v1"
_SEED = 20_260_312


@dataclass(frozen=True)
class InstanceRule:
    """How many instances of a bag a model looks at, and how many neighbours of each it wants."""

    most: int | None = None
    neighbours: int = 0

    @classmethod
    def of(cls, architecture: Architecture) -> InstanceRule:
        """The rule of a base model."""
        return cls(architecture.most_instances, architecture.encoder_kind.neighbours)

    def n(self, n: int) -> int:
        """How many of ``n`` instances are looked at."""
        return n if self.most is None else min(n, self.most)

    def places(self, n: int) -> np.ndarray:
        """The places of the drawn ones among ``n`` instances, ascending."""
        if self.n(n) == n:
            return np.arange(n)
        keys = np.random.default_rng(_SEED).random(n)
        drawn: np.ndarray = np.sort(np.argpartition(keys, self.n(n))[: self.n(n)])
        return drawn

    def near(self, slides: Sequence[np.ndarray]) -> np.ndarray:
        """The neighbours of every drawn instance of a bag, as places among the drawn ones.

        Args:
            slides: of every slide of the bag, in order, the positions of its patches, ``(n, 2)``.

        Returns:
            ``(n_drawn, neighbours)`` float32, which is exact up to 16 million instances. A slide of fewer instances
            repeats them, and an only one is its own neighbour.
        """
        ends = np.cumsum([len(xy) for xy in slides])
        places = self.places(int(ends[-1]))
        found, first = [], 0
        for xy, begin, end in zip(slides, np.append(0, ends[:-1]), ends, strict=True):
            own = xy[places[(places >= begin) & (places < end)] - begin]
            found.append(first + _nearest(own, self.neighbours))
            first += len(own)
        return np.concatenate(found).astype(np.float32)

    def near_of(self, paths: Sequence[Path]) -> np.ndarray:
        """As :meth:`near`, for a bag of these feature files.

        Raises:
            FeatureFileError: as :func:`.read_coords`.
        """
        return self.near([read_coords(path).xy for path in paths])

    def rows(self, bag: Tensor, near: np.ndarray | None) -> Tensor:
        """The drawn instances of a bag ``(n, d)``, with their neighbours behind the features."""
        if self.n(len(bag)) < len(bag):
            bag = bag[torch.from_numpy(self.places(len(bag)))]
        return bag if near is None else torch.cat([bag, torch.from_numpy(near)], dim=1)


ALL = InstanceRule()


def _nearest(xy: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` nearest other rows of every row of ``xy (n, 2)``: ``(n, k)``, ties by the lower row."""
    from scipy.spatial import cKDTree  # noqa: PLC0415 (a second to import)

    n = len(xy)
    if n < 2:
        return np.zeros((n, k), dtype=np.int64)
    _, found = cKDTree(xy).query(xy, k=min(k + 1, n))
    own = found == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True  # of more than k patches at one place, the row itself may not be among the found
    others = found[~own].reshape(n, -1)
    nearest: np.ndarray = others[:, np.arange(k) % others.shape[1]]
    return nearest


@dataclass(frozen=True)
class NeighbourCache:
    """Folder of neighbours, one file per bag and rule: a search takes longer than a reading. Its names are digests."""

    folder: Path

    def read(self, rule: InstanceRule, paths: Sequence[Path]) -> np.ndarray:
        """The neighbours of a bag (:meth:`.InstanceRule.near`), searched for once as long as its slides stay the same.

        A damaged file is set aside and made anew.

        Raises:
            FeatureFileError: as :func:`.read_coords`.
            StorageError: the disk cannot be written.
        """
        path = self.folder / f"{_key(rule, paths)}.npz"
        found = checked_file.kept(path, checked_file.read_arrays)
        if found is None:
            found = {"near": rule.near_of(paths)}
            checked_file.write_arrays(path, **found)
        return found["near"]


def _key(rule: InstanceRule, paths: Sequence[Path]) -> str:
    stats = [path.stat() for path in paths]
    facts = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]
    return hashlib.sha256(f"{_FORMAT}/{rule}/{facts}".encode()).hexdigest()[:32]
