"""``fedsteph benchmark`` at the terminal, and the paper's study on stand-in files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from studies import ROOT, write_study

from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.host.lock import exclusive
from fedsteph.simulations.study import run_study
from fedsteph.simulations.study.study_file import load_study
from fedsteph.simulations.study.tables import sentences


@pytest.fixture
def study(tmp_path) -> Path:
    """A study of seconds."""
    methods = ["local", "half_average", "steph"]
    return write_study(tmp_path / "study.yaml", methods=methods, targets=["alpha"], variants=None)


def test_the_terminal_shows_tables_sentences_and_where_the_files_are(
    cli, study, study_sites, units_done, tmp_path, monkeypatch
):
    """And the second time the same results as JSON, by as many workers as asked for."""
    asked: list[int] = []
    here = run_study.Crew  # as the fixture left it
    monkeypatch.setattr(run_study, "Crew", lambda ground, workers: asked.append(workers) or here(ground, workers))
    out = tmp_path / "out"
    words = ["benchmark", study, "--sites", study_sites, "--out", out, "--no-report"]
    code, shown, err = cli(*words, "--workers", 1)
    assert code == 0
    results = read_json(out / "results.json")
    for word in ("local", "half average", "STEPH", "C-index", "against local", "against half average"):
        assert word in shown
    for sentence in sentences(results):
        assert sentence in shown.splitlines()
    for name in ("results.md", "results.json", "results.csv", "cells.csv"):
        assert str(out / name) in shown and (out / name).is_file()
    n = len(units_done)
    assert err.splitlines()[0] == f"3 rows, targets alpha, 2 folds, 1 seeds: {n} trainings by 1 processes"
    assert any(line.startswith(f"{n} of {n} done") for line in err.splitlines())
    code, shown, _ = cli(*words, "--workers", 5, "--json")
    assert code == 0 and len(units_done) == n
    assert json.loads(shown) == read_json(out / "results.json")
    assert asked == [1, 5]


def test_sites_beside_the_study_and_a_relative_out(cli, study, study_sites, units_done, tmp_path, monkeypatch):
    content = json.loads(study.read_text()) | {"sites": str(study_sites), "methods": ["local"], "against": ["local"]}
    study.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    code, _, _ = cli("benchmark", study, "--out", "here")
    assert code == 0 and (tmp_path / "here" / "results.json").is_file()
    code, _, _ = cli("benchmark", study.name, "--sites", Path("..") / tmp_path.name / "nowhere", "--out", "other")
    assert code == 1


def test_two_studies_in_one_folder_at_a_time_are_refused(study, study_sites, tmp_path, refused):
    with exclusive(tmp_path / "out", wait=False):
        said = refused("benchmark", study, "--sites", study_sites, "--out", tmp_path / "out")
    assert "another process" in said


PAPER = ROOT / "configs" / "paper.yaml"
PAPER_SETTINGS = (
    "targets=[kipan]",
    "seeds=[0]",
    "recipe.evaluation.folds=1",
    "recipe.training.epochs=1",
    "recipe.training.min_steps=0",
    "recipe.model.embed=8",
    "recipe.model.attention=6",
    "recipe.comparators.rounds=1",
    "recipe.steph.inner_folds=2",
)


def make_paper_site(folder: Path, name: str, seed: int, patients: int = 16) -> None:
    """A cohort as the comments of ``configs/paper.yaml`` describe it, with 3 instances a slide."""
    rng, table = np.random.default_rng(seed), f"{folder.name}_survival.csv"
    (folder / "features").mkdir(parents=True)
    (folder / "site.yaml").write_text(f"name: {name}\ndata: {{labels: {table}}}\n")
    rows = []
    for i in range(patients):
        patient, slide = f"TCGA-{seed:02d}-{i:04d}", f"TCGA-{seed:02d}-{i:04d}-01Z-00-DX1"
        rows.append((patient, slide, f"TCGA-{name.upper()}", float(rng.integers(30, 4000)), i % 2))
        features = rng.normal(size=(1, 3, 1536)).astype(np.float16 if seed % 2 else np.float32)
        with h5py.File(folder / "features" / f"{slide}.h5", "w") as file:
            file["features"] = features
    columns = ["patient_id", "pathology_id", "project", "t", "e"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / table, index=False)
    ids = np.array([row[0] for row in rows])
    for k in range(5):
        test = ids[k::5]
        parts = {"train": pd.Series(sorted({*ids} - {*test})), "test": pd.Series(test)}
        pd.DataFrame(parts).to_csv(folder / f"splits_{k}.csv")


@pytest.fixture(scope="module")
def paper_sites(tmp_path_factory) -> Path:
    sites = tmp_path_factory.mktemp("paper") / "uni2-h-dss"
    names = load_study(PAPER, sites).file.only
    assert len(names) == 13
    for i, name in enumerate(names):
        assert SITE_NAME.fullmatch(name)
        make_paper_site(sites / f"tcga_{name}", name, i)
    return sites


def test_the_paper_s_study_gives_every_row_a_score(paper_sites, tmp_path, cli, units_done):
    out = tmp_path / "out"
    words = [word for setting in PAPER_SETTINGS for word in ("--set", setting)]
    code, shown, _ = cli("benchmark", PAPER, "--sites", paper_sites, "--out", out, "--no-report", *words)
    results = read_json(out / "results.json")
    assert results["failures"] == []
    assert code == 0
    study = load_study(PAPER, paper_sites, PAPER_SETTINGS)
    assert list(results["rows"]) == list(results["overall"]) == [row.name for row in study.rows]
    assert len(results["rows"]) == len(study.file.methods) + len(study.rows[len(study.file.methods) :]) > 40
    for row, about in results["overall"].items():
        assert 0 <= about["mean"] <= 1, row
        assert about["costs"]["gigaflops"] > 0, row
    assert len(results["sites"]) == 13 and list(results["targets"]) == ["kipan"]
    assert results["targets"]["kipan"]["n_patients"] == 16
    for row in study.rows:
        assert row.title.split(",")[0].split()[0] in shown, row.title
    sources = {cell.row: len(cell.unit.sources) for cell in run_study.prepare_study(study, out).plan.cells}
    assert (sources["3 sources"], sources["6 sources"], sources["9 sources"], sources["steph"]) == (3, 6, 9, 12)
