"""A small study over three small sites, as files and in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sites import make_site

from fedsteph.common.host.progress import silent, unseen
from fedsteph.simulations.study import study_crew
from fedsteph.simulations.study.plan import Cell, Unit
from fedsteph.simulations.study.run_study import Prepared, prepare_study, run_study
from fedsteph.simulations.study.study_crew import Failed
from fedsteph.simulations.study.study_file import load_study
from fedsteph.simulations.study.work import Ground, Worker

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"alpha": 24, "beta": 26, "gamma": 28}
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
    "seeds": [0],
    "methods": ["local", "half_average", "task_arithmetic", "steph", "deployed", "fedavg", "pooled"],
    "against": ["local", "half_average"],
    "recipe": RECIPE,
    "variants": {
        "1 source": {"method": "half_average", "sources": 1},
        "other start": {"method": "local", "recipe": {"model": {"head_bias": "default"}}},
    },
}


@dataclass(frozen=True)
class Ran:
    """A study that was done."""

    study: Path
    sites: Path
    out: Path
    results: dict[str, Any]


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


@contextmanager
def in_this_process() -> Iterator[list[Unit]]:
    """Inside the block, studies do every unit in this very process; gives those that were asked for, in their order."""
    done: list[Unit] = []
    with pytest.MonkeyPatch.context() as patch:

        class Here:
            def __init__(self, ground: Ground, workers: int) -> None:
                patch.setattr(study_crew, "_worker", Worker(ground))

            def __enter__(self) -> Here:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def run_stage(self, units: Sequence[Unit], on_done: Callable[[Unit], None]) -> list[Failed]:
                failures = []
                for unit in units:
                    failures.append(study_crew._do(unit, silent))
                    done.append(unit)
                    on_done(unit)
                return [failure for failure in failures if failure is not None]

        patch.setattr("fedsteph.simulations.study.run_study.Crew", Here)
        yield done


def run_here(study: Path, sites: Path, out: Path) -> dict[str, Any]:
    return dict(run_study(prepared(study, sites, out), 1, unseen))


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
