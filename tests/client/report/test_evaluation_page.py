"""The page and the files of an external validation: cut-offs by the training patients, and the same numbers in all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluated import write_model
from lifelines import KaplanMeierFitter
from sites import make_site

from fedsteph.client.evaluation.external import evaluate
from fedsteph.client.report.evaluation_files import outputs, write_evaluation
from fedsteph.client.report.evaluation_page import evaluation_page

N = 40


@pytest.fixture
def site(tmp_path) -> Path:
    return make_site(tmp_path / "site", patients=N, event_share=0.6)


def test_risk_groups_are_cut_at_the_training_patients_median(site, tmp_path):
    """A model all of whose training patients had lower risks than half of these; the curves are lifelines'."""
    write_model(tmp_path / "one.safetensors", 1, ["X1"])
    plain = evaluate([tmp_path / "one.safetensors"], site=site)
    risk = np.array([view.risk for view in plain.views["one"]])
    middle = float(np.quantile(risk, 0.3))
    write_model(tmp_path / "cut.safetensors", 1, ["X1"], cut_off=(middle - 1, middle + 1))
    page = evaluation_page(evaluate([tmp_path / "cut.safetensors"], site=site))
    picture = next(page.pictures)
    rows = {row[0]: row[1:] for row in picture.numbers.rows}
    for side, at in ((risk <= middle, 0), (risk > middle, 2)):
        fitted = KaplanMeierFitter().fit(plain.times[side], plain.events[side])
        assert rows["0"][at + 1] == str(side.sum())
        for years, cells in rows.items():
            assert float(cells[at]) == pytest.approx(float(fitted.predict(365 * float(years))), abs=6e-4)


def test_the_files_have_the_numbers(site, tmp_path):
    for seed, name in enumerate(("one", "two")):
        write_model(tmp_path / f"{name}.safetensors", seed, ["X1"], years=3)
    found = evaluate([tmp_path / "one.safetensors", tmp_path / "two.safetensors"], site=site)
    paths = write_evaluation(found, tmp_path / "out")
    assert paths == outputs(tmp_path / "out") and all(path.is_file() for path in paths)
    told = json.loads(paths[1].read_text())
    assert (told["n_patients"], told["years"]) == (N, [1, 3])
    table = pd.read_csv(paths[2]).set_index(["model", "metric"])
    for name, scores in found.scores.items():
        for metric, number in scores.metrics.items():
            assert table.loc[(name, metric), "value"] == pytest.approx(number.value)
            assert told["models"][name]["metrics"][metric]["value"] == number.value
    assert table.loc["one"]["minus_first"].isna().all() and table.loc["two"]["minus_first"].notna().all()
    patients = pd.read_csv(paths[3])
    assert list(patients) == ["patient_id", "t_days", "e", "risk_one", "risk_two"]
    assert patients["risk_two"].to_numpy() == pytest.approx([view.risk for view in found.views["two"]])
    page = paths[0].read_text()
    assert "C-index" in page and "Differences to one" in page and page.count('<img src="data:') == 2
    assert page.count("there is nobody to compare") == 2  # all have lower risks than any training patient
