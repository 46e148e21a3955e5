"""Patients' pages: what is shown is what was predicted, for whom it was asked, and of no hostile ID is anything run."""

from __future__ import annotations

import csv
import re
import shlex
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import state_of
from each_case import each
from sites import make_site

from fedsteph.client.models.context.cohort_survival import CohortSurvival
from fedsteph.client.models.context.quality import Quality
from fedsteph.client.models.model_file import Local, load_model, save_base, save_steph
from fedsteph.client.models.predict import PatientView, _percentile
from fedsteph.client.report.patients.heatmap_blocks import Heatmaps
from fedsteph.client.report.patients.search_script import SEARCH
from fedsteph.client.report.patients_page import Beside, patients_page
from fedsteph.client.site.prediction import predict_file
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Code, Link, Page, Picture, Table, Text, html

WIDE = Architecture(width=6, embed=8, attention=6, n_bins=12)
SOURCES = ("north", "south", "west")
M0 = "0" * 64
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=1>',
    "$x_{",
    "-->",
    "a&lt;b",
    "x' onload='y",
    "</details>",
]


@dataclass(frozen=True)
class World:
    folder: Path
    local: BaseModel
    drawn: np.ndarray  # risks of many training patients, which the models' references are percentiles of

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def features(self) -> Path:
        return self.folder / "site" / "features"

    @property
    def more(self) -> Path:
        return self.folder / "more" / "features"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Sites of 2 and 4 patients, a local model, and an enhanced one, with and without all that a page can show."""
    folder = tmp_path_factory.mktemp("patients")
    make_site(folder / "site", patients=2)
    make_site(folder / "more", patients=4)
    torch.manual_seed(2)
    local = untrained_model(WIDE, 5).eval()
    with torch.no_grad():
        local.head.weight *= 6  # so that patients differ
    theta_0 = torch.cat([p.detach().flatten() for p in untrained_model(WIDE, 0).encoder_state().values()])
    config = StephConfig(K=2, output="softplus")
    steph = Steph(Mixture(WIDE, theta_0, 0.4 * torch.randn(4, len(theta_0))), config, dropout=0.25).eval()
    torch.nn.init.normal_(steph.hypernetwork.head_agg[3].weight, std=5.0)
    save_steph(folder / "bare-steph.safetensors", steph, SOURCES, m0_sha256=M0)
    save_base(folder / "bare-local.safetensors", local, m0_sha256=M0)
    risks = [
        view.risk
        for kind in ("local", "steph")
        for view in predict_file(
            folder / f"bare-{kind}.safetensors", folder / "site/features", None, folder / "x"
        ).views
    ]
    drawn = np.random.default_rng(0).uniform(min(risks) - 0.1, max(risks) + 0.1, 20_000)
    reference = np.percentile(drawn, np.linspace(0, 100, 101))
    save_base(folder / "local.safetensors", local, m0_sha256=M0, reference=reference)
    whole = Local(local, reference - 1)
    save_steph(folder / "steph.safetensors", steph, SOURCES, m0_sha256=M0, reference=reference, local=whole)
    return World(folder, local, drawn)


def views_of(world: World, model: str, out: Path) -> tuple[PatientView, ...]:
    return predict_file(world / f"{model}.safetensors", world.more, None, out / "risk.csv").views


class Words(HTMLParser):
    """What a page says, and which tags it says it with."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data.strip()))

    def within(self, tag: str) -> list[str]:
        return [text for around, text in self.words if around == tag]


def parts(page: Page) -> list[tuple[str, list]]:
    return [(section.title, list(section.blocks)) for section in page.sections]


@pytest.mark.parametrize("model", ["local", "steph"])
def test_a_percentile_is_the_percent_of_training_patients_with_a_lower_risk(world, tmp_path, model):
    """By counting 20,000 of them; between two percentiles the file knows no more than their mean."""
    views = views_of(world, model, tmp_path)
    assert len(views) == 5
    for view in views:
        counted = 100 * sum(risk < view.risk for risk in world.drawn.tolist()) / len(world.drawn)
        assert view.percentile == pytest.approx(counted, abs=0.1)
    assert max(view.percentile for view in views) - min(view.percentile for view in views) > 20


def test_percentiles_lie_between_those_that_the_file_knows():
    reference = np.cumsum(np.random.default_rng(1).uniform(0.01, 1, 101))
    for k in range(101):
        assert _percentile(reference[k], reference) == pytest.approx(k)
    for k in range(100):
        for share in (0.25, 0.5):
            between = (1 - share) * reference[k] + share * reference[k + 1]
            assert _percentile(between, reference) == pytest.approx(k + share)
    assert _percentile(reference[0] - 5, reference) == 0 and _percentile(reference[-1] + 5, reference) == 100


def test_an_enhanced_model_s_local_one_predicts_as_its_own_file_does(world, tmp_path):
    enhanced, local = views_of(world, "steph", tmp_path), views_of(world, "local", tmp_path)
    alive = pd.read_csv(tmp_path / "risk.csv")[[f"survival_{year}y" for year in range(1, 13)]].to_numpy()
    for view, own, row in zip(enhanced, local, alive, strict=True):
        assert view.id == own.id
        np.testing.assert_array_equal(view.local_survival, own.survival)
        np.testing.assert_allclose(view.local_survival, row, rtol=1e-8)
        assert own.local_survival is None and abs(view.survival - view.local_survival).max() > 1e-3


@pytest.mark.parametrize("model", ["local", "steph"])
def test_a_file_without_reference_and_local_model_predicts_the_same(world, tmp_path, model):
    bare, full = views_of(world, f"bare-{model}", tmp_path), views_of(world, model, tmp_path)
    views_of(world, f"bare-{model}", tmp_path)
    for one, other in zip(bare, full, strict=True):
        assert (one.percentile, one.local_survival) == (None, None)
        assert (one.id, one.risk, one.w, one.lam) == (other.id, other.risk, other.w, other.lam)
        np.testing.assert_array_equal(one.survival, other.survival)


def view(name: str = "P1", risk: float = -2.0, **changes) -> PatientView:
    survival = np.linspace(0.95, 0.2, 12)
    made = PatientView(name, risk, 40.0, survival, survival**2, {"a": 0.4, "b": 0.1}, {"a": 0.25, "b": 0.5})
    return replace(made, **changes)


MODELS = {method_look(label).colour for label in ("enhanced model", "local model")}


def curves_of(picture: Picture) -> list[np.ndarray]:
    """Survival of each curve with a model's colour, read back from the drawing by the lines at 0 and 1."""
    paths = [path.attrib for path in ElementTree.fromstring(picture.svg).iter() if path.tag.endswith("path")]
    (grid,) = [path["d"] for path in paths if path.get("stroke") == "#999" and path["d"].count("M") == 5]
    at = [float(line.split()[1].partition("H")[0]) for line in grid.split("M")[1:]]
    drawn = [path["d"][1:].split("L") for path in paths if path.get("fill") == "none" and path["stroke"] in MODELS]
    return [np.array([(at[0] - float(point.split()[1])) / (at[0] - at[-1]) for point in points]) for points in drawn]


def test_a_patient_s_curves_are_the_survival_numbers(world, tmp_path):
    for model, labels in (("steph", ["enhanced model", "local model"]), ("local", ["local model"])):
        found = views_of(world, model, tmp_path)[1]
        (picture,) = patients_page([found], "m").pictures
        shown = [found.survival, found.local_survival][: len(labels)]
        for drawn, survival in zip(curves_of(picture), shown, strict=True):
            np.testing.assert_allclose(drawn, [1.0, *survival[:10]], atol=4e-4)
        assert picture.numbers.header == ["year", *labels]
        assert picture.numbers.rows == [
            [str(year), *(f"{s[year - 1]:.4f}" for s in shown)] for year in range(1, 11)
        ]  # fmt: skip
        words = picture.svg.decode()
        assert all(word in words for word in (*labels, picture.title, "years of 365 days", "probability of no event"))


def test_curves_that_are_as_good_as_one_are_called_so():
    survival = np.linspace(0.98, 0.853, 10)
    (picture,) = patients_page([view(survival=survival, local_survival=survival + 0.003)], "m").pictures
    assert "differ by at most 0.003 in every year" in picture.note
    (picture,) = patients_page([view()], "m").pictures
    assert picture.note == ""


def test_few_years_are_drawn_as_they_are():
    short = view(survival=np.array([0.9, 0.5]), local_survival=None)
    page = patients_page([short], "m")
    (picture,) = page.pictures
    np.testing.assert_allclose(curves_of(picture), [[1.0, 0.9, 0.5]], atol=4e-4)
    overview = parts(page)[0][1][1]
    assert overview.header == ["patient", "risk", "percentile", "survival 1 y"]


def test_members_and_training_patients_are_drawn_with_their_numbers():
    thirds = np.linspace(0.9, 0.3, 12)[None] ** np.array([[1.0], [0.5], [1.0], [2.0]])
    cohort = CohortSurvival(thirds)
    found = view(survival_range=(view().survival - 0.1, view().survival + 0.05))
    page = patients_page([found], "m", beside=Beside(cohort))
    overview, one = (blocks for _, blocks in parts(page)[:2])
    assert overview[-1].header == ["year", "all", "lowest-risk third", "middle-risk third", "highest-risk third"]
    assert overview[-1].rows[0] == ["1", *(f"{value:.4f}" for value in thirds[:, 0])]
    (picture,) = page.pictures
    assert picture.numbers.header == ["year", "enhanced model", "its members", "local model"]
    assert picture.numbers.rows[0][2] == "0.8500 to 1.0000"
    drawn = picture.svg.decode()
    assert "mean of the training patients" in drawn and drawn.count("zone of the") == 3 and "its members" in drawn
    assert "This is in the middle third." in one[0].text
    plain = patients_page([view()], "m")
    assert "zone of the" not in html(plain) and "nothing is drawn behind the curves" in html(plain)


def test_the_models_quality_and_red_flags_stand_beside_every_prediction():
    quality = Quality(0.61, (0.5, 0.7), 5, -0.04, ("too few events", "near chance"))
    page = patients_page([view("a"), view("b")], "m", beside=Beside(quality=quality))
    for _, blocks in parts(page)[:3]:
        (told,) = [one.text for one in blocks if isinstance(one, Text) and "C-index" in one.text]
        assert "5 folds: C-index 0.610 (95% interval 0.500 to 0.700)" in told and "within 3 years -0.040" in told
        assert told.endswith("Red flags: too few events, near chance.")
    for _, blocks in parts(patients_page([view()], "m"))[:2]:
        assert Text("The quality of this model is not known to its file.") in blocks
    undefined = Quality(None, None, 1, None, ())
    assert "undefined" in undefined.sentences[0] and undefined.sentences[1] == "Red flags: none."


def test_a_heatmap_beside_the_page_is_linked_and_a_missing_one_has_its_command(tmp_path):
    names = ("S 1#?", "S2", "..", "a/b", "S3")
    files = {name: tmp_path / "f" / f"{i}.h5" for i, name in enumerate(names)} | {"S3": tmp_path / "S3.pt"}
    for folder in (tmp_path / "page" / "S 1#?", tmp_path, tmp_path / "page" / "a/b"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "attention.png").touch()
    heatmaps = Heatmaps(tmp_path / "page" / "p.html", tmp_path / "m m.safetensors", files, tmp_path / "site")
    link, command = heatmaps.blocks(view(slides=names))
    assert link.href == "S%201%23%3F/attention.png" and isinstance(command, Code)
    first, *others = command.text.splitlines()
    words = shlex.split(first)
    assert words[:4] == ["fedsteph", "heatmap", str(tmp_path / "m m.safetensors"), str(files["S2"])]
    assert words[-2:] == ["--out", str(tmp_path / "page" / "S2")] and str(files["S2"]) not in words[4:]
    assert words.count("--with") == 4 and words[words.index("--site") + 1] == str(tmp_path / "site")
    assert len(others) == 2  # S3 has no places of patches
    assert f'<a href="{link.href}">' in html(patients_page([view(slides=names)], "m", beside=Beside(heatmaps=heatmaps)))
    for href in ("http://x", "//x", "/x", "javascript:x", "a b", ""):
        with pytest.raises(ValueError, match="a link must"):
            Link("x", href)


def test_patients_stand_by_their_risk_the_highest_first():
    views = [view("low", -9.0), view("b", -1.0), view("high", 0.5), view("a", -1.0)]
    page = patients_page(views, "m.safetensors")
    order = ["high", "a", "b", "low"]
    assert [title for title, _ in parts(page)] == ["All patients", *(f"Patient {name}" for name in order), "Limits"]
    overview = parts(page)[0][1][1]
    assert overview.header == ["patient", "risk", "percentile", "survival 1 y", "survival 3 y", "survival 5 y"]
    assert [row[:3] for row in overview.rows] == [
        ["high", "0.500", "40"],
        ["a", "-1.000", "40"],
        ["b", "-1.000", "40"],
        ["low", "-9.000", "40"],
    ]
    survival = np.linspace(0.95, 0.2, 12)
    assert overview.rows[0][3:] == [f"{survival[year - 1]:.3f}" for year in (1, 3, 5)]
    assert page.verdict == ["4 patients under the model m.safetensors, highest risk first."]
    assert patients_page(views[:1], "m").verdict[0].startswith("1 patient under")


def test_every_patient_is_told_of_once():
    told: list[tuple[int, int]] = []
    patients_page([view("a"), view("b"), view("c")], "m", lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_sources_are_listed_with_their_share_of_the_merge():
    found = view(w={"a": 0.4, "b": 0.0, "c": 0.6, "d": 0.0}, lam={"a": 0.25, "b": 0.9, "c": 0.5, "d": 1.0})
    _, blocks = parts(patients_page([found], "m"))[1]
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert table.rows == [
        ["c", "0.600", "0.500", "0.300"],
        ["a", "0.400", "0.250", "0.300"],
        ["this site's own", "-", "-", "0.400"],  # 0.4 x 0.25 + 0.6 x 0.5
    ]
    assert blocks[-1] == Text("Not used: b, d.")


def test_a_source_with_a_weight_below_0_is_used():
    """Where w is a trainable parameter it may become negative, and is merged all the same."""
    found = view(w={"a": -0.2, "b": 0.5}, lam={"a": 0.5, "b": 0.5})
    _, blocks = parts(patients_page([found], "m"))[1]
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert {row[0]: row[3] for row in table.rows} == {"b": "0.250", "a": "-0.100", "this site's own": "0.150"}
    assert not [block for block in blocks if isinstance(block, Text) and "Not used" in block.text]


def test_a_page_says_what_the_model_s_file_does_not_know():
    old = view(percentile=None, local_survival=None)
    page = patients_page([old], "m")
    _, blocks = parts(page)[1]
    assert blocks[0] == Text("The model's file does not say what risks its training patients have.")
    (picture,) = [block for block in blocks if isinstance(block, Picture)]
    assert picture.note == "The model's file holds no local model to compare with."
    assert parts(page)[0][1][1].rows[0][2] == "-"
    known = patients_page([view()], "m")
    assert "Risk percentile 40" in parts(known)[1][1][0].text and [one.note for one in known.pictures] == [""]
    local = patients_page([view(w={}, lam={}, local_survival=None)], "m")
    assert [one.note for one in local.pictures] == [""]
    assert not any(isinstance(block, Table) for block in parts(local)[1][1])


def test_a_page_says_where_survival_ends_and_how_far_models_disagree():
    for years, words in ((None, "does not state how long"), (1, "training patients, 1 year."), (7, ", 7 years.")):
        [limits] = parts(patients_page([view()], "m", followed_years=years))[-1][1]
        assert [line for line in limits.sentences if words in line], years
    several = view(risk_range=(-3.5, -1.25))
    _, blocks = parts(patients_page([several], "m"))[1]
    assert "Risk -2.000, from -3.500 to -1.250" in blocks[0].text and "not a confidence interval" in blocks[0].text
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert (table.header, table.rows) == (["source", "w", "lam"], [["a", "0.400", "0.250"], ["b", "0.100", "0.500"]])


@each("name", [" ".join(HOSTILE), HOSTILE[1]])
def test_a_hostile_id_is_only_ever_words(name):
    harmless, found = (Words(html(patients_page([view(one)], one))) for one in ("x" * len(name), name))

    def skeleton(words: Words) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(own)) for tag, own in words.tags]

    assert skeleton(found) == skeleton(harmless) and f"Patient {name}" in found.within("h2")
    assert f"Patient {name}" in found.within("a") and name in found.within("td")
    (drawing,) = [own for tag, own in found.tags if tag == "svg"]
    assert drawing["aria-label"] == f"Predicted survival of {name}"
    (picture,) = patients_page([view(name)], name).pictures
    ElementTree.fromstring(picture.svg)


def test_the_command_writes_a_page_of_everybody(cli, world, tmp_path):
    page, out = tmp_path / "deep" / "page.html", tmp_path / "risk.csv"
    code, printed, _ = cli(
        "predict", world / "steph.safetensors", "--features", world.features, "--out", out, "--page", page
    )
    assert code == 0
    assert printed.splitlines()[:-1] == [f"3 patients -> {out}", f"page -> {page}"] and "no C-index" in printed
    table = pd.read_csv(out).sort_values("risk", ascending=False)
    words = Words(page.read_text(encoding="utf-8"))
    assert words.within("h2") == ["All patients", *(f"Patient {name}" for name in table["patient_id"]), "Limits"]
    assert "3 patients under the model steph.safetensors, highest risk first." in words.within("p")
    assert [f"{risk:.3f}" for risk in table["risk"]] == [
        text for text in words.within("td") if re.fullmatch(r"-\d\.\d{3}", text)
    ]  # fmt: skip
    assert {path.name for path in page.parent.iterdir()} == {"page.html"}


def test_the_page_of_some_patients_and_the_csv_of_all(cli, world, tmp_path):
    words = ["--features", world.features, "--out", tmp_path / "risk.csv", "--page", tmp_path / "p.html"]
    code, _, _ = cli(
        "predict", world / "local.safetensors", *words, "--patient", "P001-DX1", "--patient", "P000-DX2"
    )  # fmt: skip
    assert code == 0
    table = pd.read_csv(tmp_path / "risk.csv")
    assert len(table) == 3
    chosen = table[table["patient_id"].isin(["P001-DX1", "P000-DX2"])].sort_values("risk", ascending=False)
    found = Words((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert found.within("h2")[1:-1] == [f"Patient {name}" for name in chosen["patient_id"]]
    assert "P000-DX1" not in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_hostile_ids_come_through_the_whole_command(cli, world, tmp_path):
    slides = sorted(path.stem for path in world.features.iterdir())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient_id", "pathology_id"), *zip(HOSTILE[:3], slides, strict=False)])
    words = ["--features", world.features, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "risk.csv"]
    code, _, _ = cli("predict", world / "local.safetensors", *words, "--page", tmp_path / "p.html")
    assert code == 0
    found = Words((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert found.within("script") == [SEARCH.strip()] and not {"iframe", "b"} & {tag for tag, _ in found.tags}
    assert not [own for _, own in found.tags if {"onerror", "onload"} & own.keys()]
    assert sorted(found.within("h2")[1:-1]) == sorted(f"Patient {name}" for name in HOSTILE[:3])


def test_user_errors_are_one_line_and_leave_everything_as_it_was(refused, world, tmp_path):
    model, out, page = tmp_path / "m.safetensors", tmp_path / "risk.csv", tmp_path / "page.html"
    model.write_bytes((world / "local.safetensors").read_bytes())
    before = state_of(load_model(model).model)

    def error(*words: object) -> str:
        return refused("predict", model, "--features", world.features, "--out", out, *words)

    assert error("--patient", "P001-DX1").startswith("--patient: chooses patients of a page, and there is none")
    assert error("--page", page, "--patient", "P9").startswith("--patient: there is no patient 'P9'")
    assert error("--page", page, "--patient", "P001-DX1", "--patient", "P9").startswith("--patient: there is no")
    assert not page.exists()
    out.write_text("mine")
    for taken in (out, model):
        assert error("--page", taken).startswith(f"{taken}: would overwrite what is read")
    assert error("--page", tmp_path).startswith(f"{tmp_path}: is a folder") and out.read_text() == "mine"
    after = state_of(load_model(model).model)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["labels.csv", "features/P001-DX1.h5"])
def test_a_page_overwrites_nothing_that_is_read(refused, world, tmp_path, name):
    site = make_site(tmp_path / "site", patients=2)
    before = (site / name).read_bytes()
    words = ["--features", site / "features", "--labels", site / "labels.csv", "--out", tmp_path / "risk.csv"]
    refused("predict", world / "local.safetensors", *words, "--page", site / name)
    assert (site / name).read_bytes() == before
