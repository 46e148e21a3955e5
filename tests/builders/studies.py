"""A small study over three small sites, as files and as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from foreign import imported, plant
from sites import make_site

from fedsteph.simulations.study.plan import Cell
from fedsteph.simulations.study.run_study import Prepared, prepare_study
from fedsteph.simulations.study.study_file import load_study
from fedsteph.simulations.study.work import Worker

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"alpha": 24, "beta": 26, "gamma": 40}
# Rates at which so few steps move a model.
RECIPE: dict[str, Any] = {
    "preset": None,
    "model": {"embed": 8, "attention": 6, "n_bins": 8, "head_bias": "empirical"},
    "training": {"epochs": 2, "lr": 0.02, "batch_bags": 8, "loss": "nll"},
    "steph": {"inner_folds": 2, "gamma": "cv", "gamma_grid": [0.0, 0.5], "K": 5},
    "comparators": {"rounds": 2, "coefficients": [0.3, 1.0]},
    "evaluation": {"folds": 2},
}
STUDY: dict[str, Any] = {
    "targets": ["alpha", "beta"],
    "seeds": [0, 1],
    "methods": [
        "local",
        "half_average",
        "task_arithmetic",
        "ties",
        "steph",
        "deployed",
        "fedavg",
        "fedprox",
        "pooled",
    ],
    "against": ["local", "half_average"],
    "recipe": RECIPE,
    "variants": {
        "K = 1": {"method": "steph", "recipe": {"steph": {"K": 1}}},
        "1 source": {"method": "half_average", "sources": 1},
        "other start": {"method": "local", "recipe": {"model": {"head_bias": "default"}}},
    },
}
MAIN = "from fedsteph.__main__ import main; main()"


@dataclass(frozen=True)
class Ran:
    """A study that was done."""

    study: Path
    sites: Path
    out: Path
    results: dict[str, Any]
    said: str  # on stderr


def make_sites(folder: Path, **sizes: int) -> Path:
    for i, (name, patients) in enumerate((SIZES | sizes).items()):
        make_site(folder / name, seed=i, patients=patients)
    return folder


def write_study(path: Path, **changes: Any) -> Path:
    """The study's YAML; a change to None takes a key out."""
    content = {key: value for key, value in (STUDY | changes).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))  # JSON is YAML, and has no aliases
    return path


def words_of(study: Path, sites: Path, out: Path, workers: int, *, page: bool = False) -> list[str]:
    words = ["benchmark", study, "--sites", sites, "--out", out, "--workers", workers]
    words += [] if page else ["--no-report"]
    return [sys.executable, "-c", MAIN, *map(str, words)]


def command(
    study: Path, sites: Path, out: Path, *, workers: int, page: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a study as a process of its own, to its end, beside files that have the names of fedsteph's folders."""
    words, folder = words_of(study, sites, out, workers, page=page), plant(out.with_name("foreign"))
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert imported(folder) == []
    return done


def prepared(study: Path, sites: Path, out: Path) -> Prepared:
    return prepare_study(load_study(study, sites), out)


def unpriced(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results without what a clock or the machine's memory says."""
    left = {key: value for key, value in results.items() if key != "seconds"}
    left["overall"] = {
        row: one | {"costs": {k: v for k, v in one["costs"].items() if k not in ("seconds", "peak_bytes")}}
        for row, one in results["overall"].items()
    }
    left["cells"] = [{k: v for k, v in cell.items() if k not in ("seconds", "peak_bytes")} for cell in results["cells"]]
    return left


def kept_hazards(out: Path) -> dict[str, np.ndarray]:
    """Every cell's hazards by its file."""
    return {str(path.relative_to(out)): np.load(path)["hazards"] for path in out.glob("cells/*/*.npz")}


def hazards_of(cell: Cell, worker: Worker) -> np.ndarray:
    with np.load(worker.path(cell.unit).with_suffix(".npz")) as file:
        return file["hazards"]


def patients_of(site: Path, fold: int) -> pd.DataFrame:
    """The test patients of a site's fold in the split's order, straight from its files."""
    patients = pd.read_csv(site / "labels.csv").drop_duplicates("patient_id").set_index("patient_id")
    return patients.loc[pd.read_csv(site / f"splits_{fold}.csv")["test"].dropna()]
