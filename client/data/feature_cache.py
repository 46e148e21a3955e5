"""Caches features on the site's disk as safetensors files, which are memory-mapped instead of read.

Extractors write HDF5 in chunks of one row, which is slow to read, and training reads every file in each epoch. The
cache has one file per slide, written when the slide is first requested. Its name is a digest, and of the source it
stores only the SHA-256, size, times and inode number. While size, times and inode stay the same, the source is not read
again. Otherwise the source is hashed, and the features are written again only if its content has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch

from fedsteph.client.data.formats import opening, read_features, read_header
from fedsteph.client.data.storage import Keep
from fedsteph.common.errors import FeatureFileError, StorageError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import free_bytes
from fedsteph.common.host.lock import exclusive

FOLDER = "feature-cache"  # in the state folder, which may be the site's folder: "features" is taken there
FORMAT = "fedsteph/feature-cache/v1"
_OURS = re.compile(r"\.?[0-9a-f]{32}\.safetensors(\..*\.part)?")
_SPARE_BYTES = 2 * 2**30  # disk space reserved for models, checkpoints and the audit log
_FACTS = ("size", "mtime_ns", "ctime_ns", "inode")
# File timestamps are coarse: a second change within this time after the first may not show in them.
_SETTLED_NS = 2 * 10**9


@dataclass(frozen=True)
class _Entry:
    features: torch.Tensor
    sha256: str
    facts: Mapping[str, str]  # empty if the source had changed too recently to be recognised by them


@dataclass
class FeatureCache:
    """Folder of cached features, one file per slide; several processes may share it."""

    folder: Path  # created when the first slide is written, with access for this user only
    keep: Keep  # stored: float16 as float16 and other types as float32; float16: rounded to float16
    width: int  # d, the number of features per instance

    def read(self, slide: str, source: Path) -> torch.Tensor:
        """Return a slide's features ``(n_instances, d)``, float32 or float16; write them to the cache if needed.

        The tensor is memory-mapped: do not change it. A truncated file or one with a damaged header is written again.
        Corrupted values are not detected, because no cache file is verified in full.

        Raises:
            FeatureFileError: as :func:`read_features` does; or ``keep`` is ``float16`` and a value does not fit.
            StorageError: the features cannot be written.
        """
        path, facts = self._path(slide), _facts(source)
        entry = self._find(path)
        if entry is not None and facts and entry.facts == facts:
            return entry.features
        with _alone_in(self.folder):
            entry = self._find(path)  # another process may have written it meanwhile
            if entry is not None and facts and entry.facts == facts:
                return entry.features
            # The facts were read before the content: if the source changes in between, the next call sees new facts.
            sha256 = _sha256(source)
            known = entry if entry is not None and entry.sha256 == sha256 else None
            if known is not None and known.facts == facts:
                return known.features
            values = self._values(source) if known is None else known.features.numpy()
            _write(path, values, {"keep": self.keep, "source_sha256": sha256, **facts})
            return self._open(path).features

    def prune(self, files: Mapping[str, Path]) -> None:
        """Remove cache files that fit no source in ``files`` (by slide ID): unknown, another size, another ``keep``."""
        sources = {self._path(slide): source for slide, source in files.items()}

        def useful(path: Path) -> bool:
            entry = self._find(path) if path in sources else None
            if entry is None:
                return False
            try:
                return entry.facts.get("size") in (None, str(sources[path].stat().st_size))
            except OSError:
                return False

        clear(self.folder, useful)

    def _path(self, slide: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{FORMAT}/{slide}'.encode()).hexdigest()[:32]}.safetensors"

    def _find(self, path: Path) -> _Entry | None:
        try:
            return self._open(path)
        except (OSError, RuntimeError, ValueError, KeyError, safetensors.SafetensorError):
            return None

    def _open(self, path: Path) -> _Entry:
        # safetensors refuses a file whose length does not match its header.
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("keep") != self.keep:
                raise ValueError("is kept otherwise")
            features = file.get_tensor("features")
        if features.shape[1:] != (self.width,) or features.dtype not in (torch.float16, torch.float32):
            raise ValueError("are no features of this cohort")
        return _Entry(features, metadata["source_sha256"], {key: metadata[key] for key in _FACTS if key in metadata})

    def _values(self, source: Path) -> npt.NDArray[Any]:
        values = read_features(source, width=self.width)
        if read_header(source).dtype == "float16":
            return values.astype(np.float16)
        if self.keep == "stored":
            return values
        largest = max(float(values.max()), -float(values.min()))
        if largest > float(np.finfo(np.float16).max):
            raise FeatureFileError(
                f"has values up to {largest:.6g}, which float16 cannot hold",
                where=source,
                remedy="Set data.disk_cache to stored",
            )
        return values.astype(np.float16)


def room(folder: Path) -> int:
    """Bytes that a cache in ``folder`` may use: its present size and the free disk space, minus a reserve."""
    taken = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return taken + max(0, free_bytes(folder) - _SPARE_BYTES)


def clear(folder: Path, useful: Callable[[Path], bool] = lambda path: False) -> None:
    """Remove all cache files in ``folder`` that are not useful, and no others; StorageError if that cannot be done."""
    if not folder.is_dir():
        return
    with _alone_in(folder):
        for path in sorted(folder.iterdir()):
            # An unfinished file is left from a killed process: a running one would hold the lock.
            if _OURS.fullmatch(path.name) and not useful(path):
                path.unlink()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and turn every disk error into a StorageError with a remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with exclusive(folder, wait=True):
            yield
    except (OSError, StorageError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or str(error)
        raise StorageError(
            f"the features cannot be kept there ({reason}; {free_bytes(folder) / 2**20:,.1f} MiB are free there)",
            where=folder,
            remedy="Make room, name another 'state' folder in site.yaml, or set data.disk_cache to never",
        ) from error


def _write(path: Path, values: npt.NDArray[Any], metadata: Mapping[str, str]) -> None:
    dtype = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}[values.dtype]
    features = {"dtype": dtype, "shape": values.shape, "data_offsets": (0, values.nbytes)}
    header = json.dumps({"__metadata__": {"format": FORMAT, **metadata}, "features": features}).encode()
    header += b" " * (-(8 + len(header)) % 64)  # aligned for vector instructions
    # Written by hand, because safetensors' own functions copy the values in memory.
    atomic.write_bytes(path, len(header).to_bytes(8, "little") + header, values.data.cast("B"))


def _facts(source: Path) -> dict[str, str]:
    """Size, times and inode, to recognise a source without reading it; empty if it changed too recently."""
    with opening(source):
        status = source.stat()
    if time.time_ns() - status.st_ctime_ns < _SETTLED_NS:
        return {}
    values = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return dict(zip(_FACTS, map(str, values), strict=True))


def _sha256(source: Path) -> str:
    with opening(source), source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
