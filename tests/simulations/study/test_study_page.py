"""A study's page: made by ``fedsteph benchmark`` itself, from the cells that the study trained."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from chromium import CHROMIUM, started, violations
from reports import fedsteph, svg_texts, visible
from studies import STUDY, patients_of

from fedsteph.client.target.evidence import read_evidence
from fedsteph.common.host.checked_file import read_json
from fedsteph.simulations.study.study_evidence import FOLDER
from fedsteph.simulations.study.study_page import is_study

TARGETS = STUDY["targets"]


@pytest.fixture(scope="module")
def page(whole) -> str:
    return (whole.out / "report" / "index.html").read_text()


def plain_c(t, e, risk) -> float:
    """Harrell's C by two loops."""
    total, concordant = 0, 0.0
    for i in range(len(t)):
        for j in range(len(t)):
            if e[i] == 1 and (t[i] < t[j] or (t[i] == t[j] and e[j] == 0)):
                total += 1
                concordant += 0.5 if abs(risk[i] - risk[j]) <= 1e-8 else float(risk[i] > risk[j])
    return concordant / total


def test_a_benchmark_writes_its_page_by_itself(whole, page):
    names = {path.stem for path in (whole.out / "report" / "figures").glob("*.svg")}
    assert {"against-0", "against-1", "source-target"} <= names
    for target in TARGETS:
        expected = ("c-index", "risk-groups.local", "risk-groups.steph", "calibration", "sources")
        assert {f"{target}.{name}" for name in expected} <= names
    assert page.count("<img ") == len(names)
    assert {path.stem for path in (whole.out / "report" / "figures").glob("*.png")} == names


def test_the_verdict_is_what_the_results_say_of_local(whole, page):
    told = visible(page)
    for row, title in (("steph", "STEPH"), ("deployed", "Deployed")):
        gap = whole.results["overall"][row]["against"]["local"]["difference"]
        word = "as good as" if abs(gap) < 5e-5 else "better than" if gap > 0 else "worse than"
        assert f"{title} is {word} local" in told
        if abs(gap) >= 5e-5:
            assert f"by {abs(gap):.4f} in the mean" in told


def test_the_one_table_comes_first_then_the_one_forest_plot_then_the_costs(whole, page):
    places = [page.index(word) for word in ("<h2", "<table", 'id="figure-against-0"', "Cost of each method")]
    assert places == sorted(places) and page.count("<table", 0, places[2]) == 1
    table = page[places[1] : places[2]]
    for row, found in whole.results["overall"].items():
        title, (low, high) = whole.results["rows"][row]["title"], found["interval_95"]
        cells = [title, f"{found['mean']:.3f} ({low:.3f}-{high:.3f})"]
        if (gap := found["against"].get("local")) is not None:
            low, high = gap["interval_95"]
            cells.append(f"{gap['difference']:+.3f} ({low:+.3f} to {high:+.3f})")
            cells += [f"{gap['targets_won']} of 2", f"{gap['worst_target']:+.3f}"]
        assert re.sub(r"<[^>]*>\s*", "|", table).replace("||", "|").find("|".join(cells)) > 0


def test_every_difference_and_every_fold_stands_there(whole, page):
    told = visible(page)
    for whole_row in whole.results["overall"].values():
        for against in whole_row["against"].values():
            assert f"{against['difference']:+.3f}" in told
    for target in TARGETS:
        for row in whole.results["targets"][target]["rows"].values():
            folds = np.mean(row["c_index"], axis=0)
            for fold, value in enumerate(folds):
                low, high = row["fold_intervals_95"][fold]
                assert f"{value:.3f} ({low:.3f}-{high:.3f})" in told
            low, high = row["interval_95"]
            assert f"{row['mean']:.3f} ({low:.3f}-{high:.3f})" in told
    assert "seed 0" in " ".join(svg_texts(page))


def test_curves_are_of_the_models_that_were_scored(whole):
    """The kept hazards rank each fold's patients as the results say, and belong to the patients of the splits."""
    for target in TARGETS:
        found = read_evidence(whole.out / FOLDER / f"{target}.npz")
        for fold in range(2):
            part = found.fold == fold
            table = patients_of(whole.sites / target, fold)
            assert list(found.ids[part]) == list(table.index)
            assert found.times[part] == pytest.approx(table["t"].to_numpy())
            for row in ("local", "steph"):
                score = whole.results["targets"][target]["rows"][row]["c_index"][0][fold]
                risk = found.risk(row)[part]
                assert plain_c(found.times[part], found.events[part], risk) == pytest.approx(score)


def test_the_matrix_is_the_mean_over_the_first_seed_s_test_patients(whole, page):
    texts = " ".join(svg_texts(page))
    for target in TARGETS:
        found = read_evidence(whole.out / FOLDER / f"{target}.npz")
        assert set(found.sources) == {"alpha", "beta", "gamma"} - {target}
        for k, source in enumerate(found.sources):
            merges = [w * (1 - lam) if w else 0.0 for w, lam in zip(found.w[:, k], found.lam[:, k], strict=True)]
            assert found.coefficients[source] == pytest.approx(np.mean(merges))
            assert f"{np.mean(merges):.2f}" in texts


def test_a_study_has_no_page_for_others(whole, refused):
    assert is_study(whole.out)
    assert "a benchmark has no page for others" in refused("report", whole.out, "--shared")


def test_a_study_of_an_earlier_version_has_a_page_without_curves(whole, tmp_path):
    out = tmp_path / "study"
    out.mkdir()
    shutil.copy(whole.out / "results.json", out)
    results = read_json(out / "results.json")
    for target in results["targets"].values():
        for row in target["rows"].values():
            del row["fold_intervals_95"], row["interval_95"]
    (out / "results.json").write_text(json.dumps(results))
    assert fedsteph("report", out) == 0
    told = visible((out / "report" / "index.html").read_text())
    assert "run the same benchmark again" in told and "an earlier version trained it" in told
    value = np.mean(results["targets"]["alpha"]["rows"]["local"]["c_index"], axis=0)[0]
    assert re.search(rf"\b{value:.3f}\b", told)


def test_no_patient_is_named_on_it(whole, page):
    told = visible(page)
    for name in ("alpha", "beta", "gamma"):
        for path in (whole.sites / name / "features").iterdir():
            assert path.stem not in told
    assert str(whole.out) not in page


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
def test_it_is_for_readers_who_use_a_keyboard_or_do_not_see_well(whole):
    with started() as browser:
        assert violations(browser, whole.out / "report" / "index.html") == []
