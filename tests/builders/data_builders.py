"""Real files of every layout, good ones and broken ones, for the tests of ``fedsteph.client.data``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

HEADER = ("patient_id", "pathology_id", "project", "t", "e")


def features(n: int = 5, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def write_h5(
    path: Path,
    values: Any,
    *,
    key: str = "features",
    encoder: str | None = None,
    magnification: float | None = None,
    patch_size: float | None = None,
    **options: Any,
) -> Path:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(key, data=values, **options)
        coords = file.create_dataset("coords", data=np.zeros((*np.shape(dataset)[:-1], 2), dtype=np.int64))
        if encoder is not None:
            dataset.attrs["encoder"] = encoder
        if magnification is not None:
            coords.attrs["target_magnification"] = magnification
        if patch_size is not None:
            coords.attrs["patch_size"] = patch_size
    return path


def save(path: Path, content: object, *, legacy: bool = False, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return path


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def h5_bytes() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["features"] = features()
    return buffer.getvalue()


def pt_bytes(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_site(folder: Path, n_patients: int = 12, d: int = 4) -> Path:
    """A site without a problem: one TRIDENT slide per patient, and a second one for the first patient."""
    (folder / "features").mkdir(parents=True)
    slides = [(f"P{i:02d}", f"P{i:02d}-DX1.uuid") for i in range(n_patients)] + [("P00", "P00-DX2.uuid")]
    for i, (_, slide) in enumerate(slides):
        write_h5(
            folder / "features" / f"{slide}.h5",
            features(3 + i, d, i),
            encoder="uni_v2",
            magnification=20,
            patch_size=256,
        )
    times = {patient: 400.0 + 50 * i for i, (patient, _) in enumerate(slides[:n_patients])}
    rows = [(patient, slide, "KIRP", times[patient], int(patient[1:]) % 2) for patient, slide in slides]
    write_csv(folder / "labels.csv", [HEADER, *rows])
    return folder
