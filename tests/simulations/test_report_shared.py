"""What a page for others holds: nothing but what each site's policy lets out, whatever one looks for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reports import ALPHA, BETA, GAMMA, Reported, visible

from fedsteph.client.report.public import public_target
from fedsteph.client.report.site_page import shared_page
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.policy import Policy
from fedsteph.client.target.evidence import FILE, read_evidence
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.report.page import html, write_page

OPEN = Policy(min_pairs=1, min_group=15, metrics=("patients", "events", "c_index", "curves"))


@pytest.fixture(scope="module")
def pages(reported) -> dict[str, str]:
    """Every page that leaves: the coordinator's, and each target's by its own site file."""
    folders = [reported.shared(name) for name in ("coordinator", "alpha", "beta")]
    return {folder.name: (folder / "index.html").read_text() for folder in folders} | {
        path.name: path.read_text() for folder in folders for path in folder.rglob("*.svg")
    }


def forbidden(reported: Reported) -> dict[str, set[str]]:
    """What must not be found, as whole words of what a reader sees, by why."""
    found: dict[str, set[str]] = {"counts": set(), "ids": set(), "times": set(), "scores": set()}
    for name in ("alpha", "beta", "gamma"):
        labels = reported.labels(name)
        found["ids"] |= {*labels["patient_id"], *labels["pathology_id"]}
        found["counts"] |= {str(n) for n in (ALPHA, BETA, GAMMA, labels.drop_duplicates("patient_id")["e"].sum())}
    for name in ("alpha", "beta"):
        evidence = read_evidence(reported.state(name) / FILE)
        found["times"] |= {f"{t:.{d}f}" for t in (*evidence.times, *(evidence.times / 365)) for d in (1, 2, 3) if t > 2}
        for row in reported.results["targets"][name]["methods"].values():
            values = [row["mean"], *row["interval_95"], *row["c_index"]]
            found["scores"] |= {f"{value:.{d}f}" for value in values for d in (3, 4)}
    found["times"] = {text for text in found["times"] if len(text) > 4}  # 2.5 and 0.85 may well stand there
    return found


def words(page: str) -> set[str]:
    text = re.sub(r"\b[0-9a-f]{32,128}\b", " ", visible(page))  # digests
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)  # 41,665 bytes are one number
    return set(re.findall(r"[A-Za-z0-9_.:/-]+[A-Za-z0-9]|[A-Za-z0-9]", text))


def test_nothing_of_a_patient_and_no_exact_number_is_on_a_page_for_others_and_no_path_on_any(pages, reported):
    own, wanted = (reported.run / "report" / "index.html").read_text(), forbidden(reported)
    for name, page in pages.items():
        assert not words(page) & set().union(*wanted.values()), name
    for kind in ("counts", "scores"):  # the search would find it: the owner's page has all of that but IDs
        assert words(own) & wanted[kind]
    assert not words(own) & wanted["ids"]
    for name, page in (pages | {"own": own}).items():
        for text in (page, visible(page)):
            assert str(reported.run) not in text and "/tmp" not in text and str(Path.home()) not in text, name


def test_bands_and_rounded_scores_are_what_is_told(pages, reported):
    told = visible(pages["coordinator"])
    assert "60-69" in told and "50-59" in told  # alpha and beta
    assert re.search(r"gamma\s+not told\s+not told", told)
    outcome = read_json(reported.run / "server" / "outcome.json")
    for scores in outcome["targets"].values():
        for score in scores["scores"]:
            assert f"{score['c_index']:.2f}" in told
    assert "60-69" in visible(pages["alpha"]) and "events" in visible(pages["alpha"])


def test_curves_are_on_the_page_of_the_site_whose_policy_names_them_and_on_no_other(pages):
    assert "alpha.risk-groups.enhanced.svg" in pages and "data:image/svg" in pages["alpha"]
    assert not [name for name in pages if name.startswith("beta.")] and "data:image" not in pages["beta"]
    assert "Survival curves are kept by the site's policy." in visible(pages["beta"])
    assert "data:image" not in pages["coordinator"]


# ---------------------------------------------------------------- the curves that leave


@pytest.fixture
def files(reported) -> TargetFiles:
    return TargetFiles.open(reported.state("alpha"))


@pytest.mark.parametrize(("min_group", "step"), [(10, 0.5), (15, 0.2), (29, 0.2), (30, 0.1), (59, 0.1), (60, 0.05)])
def test_every_height_is_of_more_than_one_number_of_events(files, min_group, step):
    """By counting: of any group that is drawn, whole and uncensored, no rounded survival belongs to one count alone."""
    policy = replace(OPEN, min_group=min_group)
    assert public_target("alpha", files, policy).step == step
    for n in range(min_group, 4 * min_group):
        heights = [round(round((1 - d / n) / step) * step, 2) for d in range(n + 1)]
        assert min(heights.count(height) for height in set(heights)) >= 2


def test_a_curve_is_read_once_a_year_and_rounded_and_ends_where_few_are_followed(files):
    found = public_target("alpha", files, OPEN)
    assert set(found.curves) == {"local", "enhanced"} and found.no_curves == ""
    evidence = files.evidence().once
    for groups, method in ((found.curves["local"], "local"), (found.curves["enhanced"], "panel")):
        high = evidence.high_risk(method)
        for group, members in zip(groups, (~high, high), strict=True):
            times, events = evidence.times[members], evidence.events[members]
            for year, survival in enumerate(group.survival):
                plain = np.prod(
                    [
                        1 - np.sum((times == t) & (events == 1)) / np.sum(times >= t)
                        for t in np.unique(times[(events == 1) & (times <= 365 * year)])
                    ]
                )
                assert survival == pytest.approx(plain, abs=found.step / 2 + 1e-9)
                assert round(survival / found.step) == pytest.approx(survival / found.step)
                assert np.sum(times >= 365 * year) >= OPEN.min_group
            assert np.sum(times >= 365 * len(group.survival)) < OPEN.min_group
            assert all(re.fullmatch(r"[1-9]0-[1-9]9", band) for band in (*group.at_risk, group.patients))


def test_groups_below_the_policy_s_smallest_are_not_drawn(files):
    """Of 67 patients one of two groups has fewer than 34."""
    found = public_target("alpha", files, replace(OPEN, min_group=34))
    assert found.curves == {} and "fewer patients" in found.no_curves
    page = shared_page(found)
    assert list(page.pictures) == [] and found.no_curves in visible(html(page))


def test_without_leave_there_are_no_curves_and_that_is_the_default(files):
    assert "curves" not in Policy().metrics
    assert public_target("alpha", files, replace(OPEN, metrics=Policy().metrics)).curves == {}


def test_a_policy_that_tells_nothing_gives_a_page_that_tells_nothing(files, tmp_path, reported):
    found = public_target("alpha", files, Policy(metrics=()))
    assert (found.patients, found.events, set(found.scores.values()), found.curves) == (None, None, {None}, {})
    page = write_page(shared_page(found), tmp_path).read_text()
    assert "60-69" not in page
    assert "scores are undefined or kept by the site's policy" in visible(page)
    assert not words(page) & forbidden(reported)["scores"]


def test_few_pairs_behind_a_score_keep_it_at_home(files):
    n_pairs = files.result.n_pairs
    assert set(public_target("alpha", files, replace(OPEN, min_pairs=n_pairs + 1)).scores.values()) == {None}
    assert None not in public_target("alpha", files, replace(OPEN, min_pairs=n_pairs)).scores.values()


@pytest.mark.parametrize("value", [9, 0, -1])
def test_a_smallest_group_below_ten_is_no_policy(value):
    with pytest.raises(ValueError, match="min_group must be at least 10"):
        Policy(min_group=value)


def test_a_shared_page_is_made_from_the_chosen_fields_alone(files, monkeypatch):
    """Once they are chosen, neither evidence nor result is looked at again."""
    found = public_target("alpha", files, OPEN)
    for name in ("open", "evidence", "dynamics", "enhanced"):
        monkeypatch.setattr(TargetFiles, name, lambda *_: pytest.fail("looked at the site's files"))
    assert "Survival by risk group" in html(shared_page(found))
