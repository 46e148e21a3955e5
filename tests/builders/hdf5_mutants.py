"""Damages HDF5 files of real layouts byte by byte, and says what becomes of each when it is read.

The tests read some; ``python tests/builders/hdf5_mutants.py --n 20000`` reads many, and prints how each layout ended.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fedsteph.client.data.formats import read_coords, read_features, read_header
from fedsteph.client.data.hdf5 import guarded_headers
from fedsteph.common.errors import FeatureFileError

N, D = 40, 8
_BATCH = 500


@dataclass(frozen=True)
class Original:
    """A whole file; ``data`` has the first byte and the length of everything that holds values."""

    content: bytes
    data: tuple[tuple[int, int], ...]


def originals() -> dict[str, Original]:
    """One file per layout."""
    plain: dict[str, Any] = {"chunks": (1, D), "maxshape": (None, D)}
    checked: dict[str, Any] = {"chunks": (16, D), "compression": "gzip", "shuffle": True, "fletcher32": True}
    return {
        "trident": _original("float32"),
        "clam": _original("float32", **plain),
        "uni2-h": _original("float32", leading=True, compression="gzip", chunks=(1, 16, D)),
        "fletcher32": _original("float16", libver="latest", **checked),
    }


def _original(dtype: str, *, leading: bool = False, libver: str = "earliest", **options: Any) -> Original:
    values = np.random.default_rng(7).standard_normal((N, D)).astype(dtype)
    xy = 512 * np.stack(np.divmod(np.arange(N), 7), axis=1)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=libver) as file:
        features = file.create_dataset("features", data=values[None] if leading else values, **options)
        coords = file.create_dataset("coords", data=xy[None] if leading else xy)
        features.attrs["encoder"] = "uni_v2"
        coords.attrs["target_magnification"] = 20
        coords.attrs["patch_size_level0"] = 512
        data = (*_extents(features), *_extents(coords))
    return Original(buffer.getvalue(), data)


def _extents(dataset: h5py.Dataset) -> Iterator[tuple[int, int]]:
    if dataset.chunks is None:
        yield dataset.id.get_offset(), dataset.nbytes
        return
    for i in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(i)
        yield info.byte_offset, info.size


def mutant(original: Original, seed: int) -> tuple[bytes, bytes]:
    """The file with 1 to 32 other bytes, two in three times near each other; and with those alone that hold values."""
    chance, content, values = random.Random(seed), bytearray(original.content), bytearray(original.content)
    many, start = chance.randint(1, 32), chance.randrange(len(content))
    near = range(start, min(len(content), start + 64)) if chance.random() < 2 / 3 else range(len(content))
    for place in chance.sample(near, min(many, len(near))):
        content[place] ^= chance.choice((1 << chance.randrange(8), 255, chance.randint(1, 255)))
        if any(first <= place < first + n for first, n in original.data):
            values[place] = content[place]
    return bytes(content), bytes(values)


def outcome(path: Path, original: Original, damaged_values: bytes) -> str:
    """``refused``, ``same``, or what else came of reading the file's header, features and coords."""
    try:
        header, values, coords = read_header(path), read_features(path), read_coords(path)
    except FeatureFileError as error:
        assert error.where == str(path) and error.remedy
        return next((word for word in ("took more than", "crashed") if word in error.what), "refused")
    for content, what in ((original.content, "same"), (damaged_values, "other values, no checksum")):
        true = _plainly(content)
        if true is not None and all(map(np.array_equal, (values, coords.xy), true)):
            about = header.extraction.encoder, header.extraction.magnification, coords.facts
            whole = "uni_v2", 20.0, {"target_magnification": 20.0, "patch_size_level0": 512.0}
            return what if about == whole else "other attributes"
    return "other"


def _plainly(content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Features and coords as h5py reads them from a file of whole structure; None if a checksum or filter fails."""
    try:
        with h5py.File(io.BytesIO(content)) as file:
            features, coords = file["features"][...], file["coords"][...]
    except OSError:
        return None
    return features.reshape(N, D).astype(np.float32), coords.reshape(N, 2).astype(np.float64)


def outcomes(folder: Path, first: int, n: int) -> Iterator[tuple[str, int, str]]:
    """Layout, seed and outcome of ``n`` mutants."""
    files = originals()
    for seed in range(first, first + n):
        name = [*files][seed % len(files)]
        content, damaged_values = mutant(files[name], seed)
        path = folder / f"{seed}.h5"
        path.write_bytes(content)
        yield name, seed, outcome(path, files[name], damaged_values)
        path.unlink()


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--n", type=int, default=20_000)
    words.add_argument("--first", type=int, default=0)
    words.add_argument("--batch", action="store_true", help="read these mutants in this process")
    asked = words.parse_args()
    if asked.batch:
        guarded_headers.CPU_SECONDS = 2
        with tempfile.TemporaryDirectory() as folder:
            for row in outcomes(Path(folder), asked.first, asked.n):
                print(json.dumps(row), flush=True)
        return
    found: Counter[tuple[str, str]] = Counter()
    for first in range(asked.first, asked.first + asked.n, _BATCH):
        n = min(_BATCH, asked.first + asked.n - first)
        command = [sys.executable, __file__, "--batch", "--first", str(first), "--n", str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        found.update((name, what) for name, _, what in rows)
        for name, seed, what in rows:
            if what in ("other", "crashed", "took more than"):
                print(f"{name} {seed}: {what}", flush=True)
        if done.returncode or len(rows) < n:
            print(f"ended at {first + len(rows)}, exit status {done.returncode}: {done.stderr[-2000:]}", flush=True)
    for (name, what), count in sorted(found.items()):
        print(f"{name:12} {what:28} {count}")


if __name__ == "__main__":
    main()
