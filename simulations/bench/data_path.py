"""``fedsteph measure data-path``: times the reading of bags from synthetic TRIDENT slides.

Compares plain h5py with a cohort that reads its files again in each epoch, and with one that caches its features on
disk (client/data/feature_cache.py). All files are in the system's page cache, so the difference is the cost of HDF5,
copies, checks and conversions, and not the disk's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.settings import DataSettings
from fedsteph.simulations.bench.figures import machine
from fedsteph.simulations.bench.pairs import in_turn, seconds_of

SCHEMA = "fedsteph/bench-data-path/v1"
LAYOUTS: dict[str, dict[str, Any]] = {
    "one-row chunks, float32": {"dtype": np.float32, "one_row_chunks": True},
    "one-row chunks, float16": {"dtype": np.float16, "one_row_chunks": True},
    "contiguous, float32": {"dtype": np.float32, "one_row_chunks": False},
}


def measure(n_slides: int, n_instances: int, width: int, repeats: int) -> dict[str, Any]:
    """Time epochs of reading in turn, after one untimed epoch of each kind; each bag is summed, so that all is read.

    Returns JSON-ready, per file layout: the spreads with plain h5py, and of a cohort from its files, and with features
    cached as stored and as float16; each one's first epoch; how many times faster than h5py it is.
    ``io_cached_vs_h5py`` is this ratio for TRIDENT's layout (one-row chunks of float32), cached as stored.
    """
    found_on, layouts, threads = machine(), {}, torch.get_num_threads()
    torch.set_num_threads(1)  # h5py reads with one thread, and sums must take the same time for all
    with tempfile.TemporaryDirectory() as folder:
        sites = {name: Path(folder) / str(i) for i, name in enumerate(LAYOUTS)}
        for name, site in sites.items():
            write_site(site, n_slides, n_instances, width, **LAYOUTS[name])
        for name, site in sites.items():
            layouts[name] = _compare(site, repeats)
    torch.set_num_threads(threads)
    return {
        "schema": SCHEMA,
        "machine": found_on,
        "threads": 1,
        "slides": n_slides,
        "instances": n_instances,
        "width": width,
        "layouts": layouts,
        "io_cached_vs_h5py": layouts["one-row chunks, float32"]["stored_vs_h5py"],
    }


def write_site(
    site: Path, n_slides: int, n_instances: int, width: int, *, dtype: Any = np.float32, one_row_chunks: bool = True
) -> None:
    """Write a site folder of TRIDENT slides of Gaussian noise, one slide per patient."""
    source = np.random.default_rng(0)
    (site / "features").mkdir(parents=True)
    rows = ["patient_id,pathology_id,t,e"]
    for i in range(n_slides):
        values = source.standard_normal((n_instances, width), dtype=np.float32).astype(dtype)
        with h5py.File(site / "features" / f"S{i:03d}.h5", "w") as file:
            options = {"chunks": (1, width), "maxshape": (None, width)} if one_row_chunks else {}
            file.create_dataset("features", data=values, **options).attrs["encoder"] = "bench"
            file.create_dataset("coords", data=np.zeros((n_instances, 2), dtype=np.int64))
        rows.append(f"P{i:03d},S{i:03d},{100 + i},{i % 2}")
    (site / "labels.csv").write_text("\n".join(rows) + "\n")


def _compare(site: Path, repeats: int) -> dict[str, Any]:
    paths = sorted((site / "features").iterdir())
    cohorts = {
        "files": open_cohort(site, DataSettings(cache_gib=0, disk_cache="never"), site / "none"),
        "stored": open_cohort(site, DataSettings(cache_gib=0, disk_cache="stored"), site / "stored"),
        "float16": open_cohort(site, DataSettings(cache_gib=0, disk_cache="float16"), site / "float16"),
    }
    epochs: dict[str, Callable[[], Iterator[torch.Tensor]]] = {"h5py": partial(_plain, paths)}
    epochs |= {name: partial(_bags, cohort) for name, cohort in cohorts.items()}
    readings = {name: partial(_read, epoch) for name, epoch in epochs.items()}
    first = {name: seconds_of(reading) for name, reading in readings.items()}
    spreads, _ = in_turn(readings, repeats)
    return {
        **{name: asdict(spread) for name, spread in spreads.items()},
        **{f"first_{name}": first[name] for name in cohorts},
        **{f"{name}_vs_h5py": spreads["h5py"].median / spreads[name].median for name in cohorts},
    }


def _plain(paths: list[Path]) -> Iterator[torch.Tensor]:
    for path in paths:
        with h5py.File(path, "r") as file:
            yield torch.from_numpy(file["features"][:]).float()


def _bags(cohort: Cohort) -> Iterator[torch.Tensor]:
    return (cohort.bag(i) for i in range(len(cohort)))


def _read(epoch: Callable[[], Iterator[torch.Tensor]]) -> None:
    for bag in epoch():
        bag.sum()
