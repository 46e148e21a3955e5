"""The page of a site's own training: what it says, of whom, and where nothing can be judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsteph.client.report.training_page import training_page, write_training_page
from fedsteph.client.site.site import Site
from fedsteph.client.target.evidence import Evidence
from fedsteph.client.target.train_alone import OwnModels
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.model.method_scores import MethodScores

N = 40


def own_models(folder: Path, *, events: bool = True) -> OwnModels:
    """Models of 40 patients in two folds, whose hazards rise with the patient's number and so with the risk."""
    folder.mkdir()
    risk = np.linspace(0.02, 0.3, N)
    tested = Evidence(
        ids=np.array([f"P{i:02d}" for i in range(N)]),
        fold=np.arange(N) % 2,
        times=np.linspace(3000.0, 100.0, N),
        events=np.full(N, int(events)),
        hazards={"local": np.repeat(risk[:, None], 5, axis=1)},
        cut_off={"local": np.full(2, -3.0)},
        sources=(),
        w=np.empty((N, 0)),
        lam=np.empty((N, 0)),
    )
    scores = MethodScores((0.75, 0.65), ((0.6, 0.9), (0.5, 0.8)), 0.7, (0.58, 0.81))
    if not events:
        scores = MethodScores((None, None), (None, None), None, None)
    site = Site.open(folder)
    return OwnModels(site, Recipe(), N, N * events, scores, tested, folder / "model.safetensors", "features: in memory")


def test_it_says_how_good_the_model_is_and_shows_the_test_patients(tmp_path):
    found = own_models(tmp_path / "kirp")
    path = write_training_page(found)
    assert path == found.site.state / "report-training" / "index.html"
    text = path.read_text(encoding="utf-8")
    assert "At kirp, the local model&#39;s C-index is 0.700 (95% interval 0.580 to 0.810): better than chance." in text
    assert "For this site alone" in text and "40 patients, 40 events." in text and "intervals are wide" in text
    assert "The model of all patients is judged on nobody" in text and "none of all patients" not in text
    drawn = {picture.stem for picture in (path.parent / "figures").glob("*.svg")}
    assert drawn == {"kirp.c-index", "kirp.risk-groups.local", "kirp.calibration"}


def test_an_interval_that_holds_chance_is_told(tmp_path):
    found = own_models(tmp_path / "kirp")
    unsure = replace(found, scores=replace(found.scores, interval_95=(0.45, 0.81)))
    assert "not surely better than chance" in training_page(unsure).verdict[0]


def test_without_an_event_it_says_why_nothing_is_drawn(tmp_path):
    page = training_page(own_models(tmp_path / "kirp", events=False))
    assert "too small to evaluate" in page.verdict[0]
    assert all(picture.instead for picture in page.pictures)
