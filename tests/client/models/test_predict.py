"""Predictions: every column against direct calls of the model, and every refusal with the place of its cause."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import make_vectors, plain_c, trained_workspace
from sites import make_site

from fedsteph.client.methods.task import Task
from fedsteph.client.models.model_file import load_model, save_base, save_steph
from fedsteph.client.site.prediction import predict_file
from fedsteph.client.site.site import Site
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.client.target.fold import enhance_fold
from fedsteph.client.target.train_alone import train_site
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import DataError, EncoderError, FeatureFileError, ModelFileError, WidthError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model

ARCHITECTURE = Architecture(width=6, embed=8, attention=6, n_bins=32)
SOURCES = ("north", "south", "west")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A site with 12 patients, of whom three have two slides, and a local and an enhanced model."""
    folder = tmp_path_factory.mktemp("predict")
    make_site(folder / "site", patients=12)
    from_site = load_config(None, ["model.embed=8", "model.attention=6", "training.epochs=2", "evaluation.folds=2"])
    train_site(Site.open(folder / "site", state=folder / "state", device="cpu"), from_site)
    next((folder / "state").rglob("model.safetensors")).rename(folder / "local.safetensors")
    theta_0 = torch.cat([p.detach().flatten() for p in untrained_model(ARCHITECTURE, 0).encoder_state().values()])
    torch.manual_seed(3)
    model = Steph(
        Mixture(ARCHITECTURE, theta_0, 0.5 * torch.randn(4, len(theta_0))), StephConfig(K=2, output="softplus")
    )
    torch.nn.init.normal_(model.hypernetwork.head_agg[3].weight, std=5.0)
    save_steph(folder / "steph.safetensors", model, SOURCES, m0_sha256="0" * 64)
    return folder


def slide(world: Path, name: str) -> torch.Tensor:
    with h5py.File(world / f"site/features/{name}.h5") as file:
        return torch.from_numpy(file["features"][:])


def rows_of(world: Path, with_outcomes: bool = True) -> pd.DataFrame:
    table = pd.read_csv(world / "site/labels.csv")
    return table if with_outcomes else table[["patient_id", "pathology_id"]]


def predicted(world: Path, out: Path, model: str = "local", labels: Path | None = None):
    found = predict_file(world / f"{model}.safetensors", world / "site/features", labels, out)
    return found, pd.read_csv(out)


def plain_row(hazards: torch.Tensor) -> list[float]:
    """Risk, then survival year by year."""
    alive, years = 1.0, []
    for hazard in hazards.double().tolist():
        alive *= 1 - hazard
        years.append(alive)
    return [-sum(years), *years]


YEARS = [f"survival_{year}y" for year in range(1, 33)]


def years_of(world: Path, kind: str) -> list[str]:
    """Those that the training patients of the local model were followed for; all of the other, which does not say."""
    longest = math.ceil(rows_of(world)["t"].max() / 365)
    return YEARS[: {"local": longest, "steph": 32}[kind]]


def test_without_labels_every_file_is_a_patient(world, tmp_path):
    found, table = predicted(world, tmp_path / "new" / "out.csv")
    files = sorted(path.stem for path in (world / "site/features").iterdir())
    assert (found.n_patients, found.c_index, found.n_comparable) == (15, None, 0)
    years = years_of(world, "local")
    assert 1 < len(years) < 32 and table["patient_id"].tolist() == files
    assert list(table.columns) == ["patient_id", "risk", "percentile", *years]
    model = load_model(world / "local.safetensors").model
    for (_, row), name in zip(table.iterrows(), files, strict=True):
        hazards = model(slide(world, name).unsqueeze(0))[0]
        found = row[["risk", *years]].to_numpy(float)
        np.testing.assert_allclose(found, plain_row(hazards)[: 1 + len(years)], rtol=1e-6)


@pytest.mark.parametrize("with_outcomes", [True, False])
@pytest.mark.parametrize("kind", ["local", "steph"])
def test_a_patients_slides_are_one_bag(world, tmp_path, kind, with_outcomes):
    labels = tmp_path / "labels.csv"
    rows_of(world, with_outcomes).to_csv(labels, index=False)
    found, table = predicted(world, tmp_path / "out.csv", kind, labels)
    patients = rows_of(world).groupby("patient_id")
    assert found.n_patients == 12 and table["patient_id"].tolist() == list(patients.groups)
    model = load_model(world / f"{kind}.safetensors").model
    for _, row in table.iterrows():
        slides = patients.get_group(row["patient_id"])["pathology_id"]
        bag = torch.cat([slide(world, name) for name in slides]).unsqueeze(0)
        years = years_of(world, kind)
        expected = plain_row(model(bag)[0])[: 1 + len(years)]
        np.testing.assert_allclose(row[["risk", *years]].to_numpy(float), expected, rtol=1e-6)
    t, e = patients["t"].first().to_numpy(), patients["e"].first().to_numpy()
    if with_outcomes:
        assert found.c_index == pytest.approx(plain_c(t, e, table["risk"].to_numpy()))
        assert found.n_comparable == sum(e[i] and t[i] < t[j] for i in range(12) for j in range(12)) > 0
    else:
        assert (found.c_index, found.n_comparable) == (None, 0)


def test_survival_never_rises(world, tmp_path):
    for kind in ("local", "steph"):
        survival = predicted(world, tmp_path / "out.csv", kind)[1][years_of(world, kind)].to_numpy()
        assert (np.diff(survival, axis=1) <= 0).all() and ((survival >= 0) & (survival <= 1)).all()


def test_the_sources_an_enhanced_model_kept(world, tmp_path):
    _, table = predicted(world, tmp_path / "out.csv", "steph")
    columns = [f"{kind}_{source}" for source in SOURCES for kind in ("w", "lam")]
    assert list(table.columns) == ["patient_id", "risk", *YEARS, *columns]
    model, dropped = load_model(world / "steph.safetensors").model, 0
    for _, row in table.iterrows():
        w, lam = (values[0].tolist() for values in model.hypernetwork(slide(world, row["patient_id"]).unsqueeze(0)))
        kept = sorted(range(3), key=lambda k: -w[k])[:2]
        for k, source in enumerate(SOURCES):
            assert row[f"w_{source}"] == pytest.approx(w[k] if k in kept else 0.0, rel=1e-5)
            assert row[f"lam_{source}"] == pytest.approx(lam[k], rel=1e-5)
            dropped += w[k] > 0 and k not in kept
    assert dropped, "no source with a positive weight was left out"


def test_ids_stay_text(world, tmp_path):
    (tmp_path / "labels.csv").write_text("patient_id,pathology_id\n007,P001-DX1\nNA,P002-DX1\n")
    predicted(world, tmp_path / "out.csv", labels=tmp_path / "labels.csv")
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()] == [
        "patient_id",
        "007",
        "NA",
    ]


def test_outcomes_without_a_comparable_pair(world, tmp_path):
    text = "patient_id,pathology_id,t,e\nA,P001-DX1,5,0\nB,P002-DX1,6,0\n"
    (tmp_path / "labels.csv").write_text(text)
    found, _ = predicted(world, tmp_path / "out.csv", labels=tmp_path / "labels.csv")
    assert (found.n_patients, found.c_index, found.n_comparable) == (2, None, 0)
    assert "no two of 2 patients can be compared" in found.why_no_c_index


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("patient_id,pathology_id\nA,P001-DX1\nB,gone\n", None, "'gone' has no feature file"),
        ("patient_id\nA\n", "", "has no column 'pathology_id'"),
        ("patient_id,pathology_id\n", "", "has no rows"),
        ("patient_id,pathology_id\nA,P001-DX1\nA,P001-DX1\n", ":3", "already in line 2"),
        ("patient_id,pathology_id\nA,P001-DX1\nB,P001-DX1\n", ":3", "already in line 2"),
        ("patient_id,pathology_id\nA,P001-DX1\n,P002-DX1\n", ":3", "'patient_id' is empty"),
    ],
)
def test_labels_that_do_not_fit_the_features(world, tmp_path, text, where, message):
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        predicted(world, tmp_path / "out.csv", labels=labels)
    place = world / "site/features" if where is None else f"{labels}{where}"
    assert f"{place}: " in str(caught.value) and str(labels) == caught.value.where
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("row", ["A,P001-DX1,soon,1", "A,P001-DX1,5,2", "A,P001-DX1,,"])
def test_outcomes_that_cannot_be_read_are_refused_before_anything_is_computed(world, tmp_path, row):
    labels = tmp_path / "labels.csv"
    labels.write_text(f"patient_id,pathology_id,t,e\nB,P002-DX1,4,1\n{row}\n")
    with pytest.raises(DataError) as caught:
        predicted(world, tmp_path / "out.csv", labels=labels)
    assert "labels.csv:3" in str(caught.value) and not (tmp_path / "out.csv").exists()


def test_features_of_another_width_are_named(world, tmp_path):
    make_site(tmp_path / "wide", patients=3, width=7)
    with pytest.raises(WidthError, match="7 features per instance, expected 6") as caught:
        predict_file(world / "local.safetensors", tmp_path / "wide/features", None, tmp_path / "out.csv")
    assert caught.value.where.startswith(str(tmp_path / "wide/features/P000")) and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("name", ["absent", "empty", "notes"])
def test_no_features(world, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/log.txt").write_text("not a slide")
    with pytest.raises(DataError) as caught:
        predict_file(world / "local.safetensors", tmp_path / name, None, tmp_path / "out.csv")
    assert caught.value.where == str(tmp_path / name)


def test_two_files_of_one_slide_are_refused_and_hidden_ones_ignored(world, tmp_path):
    features = make_site(tmp_path / "site", patients=2).joinpath("features")
    (features / ".P001-DX1.h5").write_bytes((features / "P001-DX1.h5").read_bytes())
    assert predict_file(world / "local.safetensors", features, None, tmp_path / "out.csv").n_patients == 3
    torch.save(torch.zeros(2, 6), features / "P001-DX1.pt")
    with pytest.raises(DataError, match="'P001-DX1' has two feature files"):
        predict_file(world / "local.safetensors", features, None, tmp_path / "out.csv")


def test_no_model(world, tmp_path):
    with pytest.raises(ModelFileError):
        predict_file(tmp_path / "absent", world / "site/features", None, tmp_path / "out.csv")


def test_a_folds_models_predict_what_the_fold_was_judged_on(tmp_path):
    workspace = trained_workspace(tmp_path, patients=10)
    folder = workspace.folder / "merge"
    enhance_fold(Task(workspace, 0, make_vectors(workspace.recipe, 2), folder))
    judged = pd.read_csv(folder / "predictions.csv").set_index("patient_id")
    site = workspace.site.folder
    for method, path in [
        ("local", workspace.fold_folder(0) / "local.safetensors"),
        ("steph", folder / "steph.safetensors"),
    ]:
        predict_file(path, site / "features", site / "labels.csv", tmp_path / "out.csv")
        found = pd.read_csv(tmp_path / "out.csv").set_index("patient_id").loc[judged.index]
        np.testing.assert_allclose(found["risk"], judged[f"risk_{method}"], rtol=0, atol=2e-5)
        assert load_model(path).followed_years == math.ceil(workspace.train_part(0).times.max() / 365)
        assert ("risk_local" in found) == (method == "steph")
    np.testing.assert_allclose(found["risk_local"], judged["risk_local"], rtol=0, atol=2e-5)


def test_a_copy_by_another_name_is_no_patient_and_is_told_of(world, tmp_path):
    features = make_site(tmp_path / "site", patients=2).joinpath("features")
    content = (features / "P001-DX1.h5").read_bytes()
    for name in ("P001-DX1.h5.bak", "P001-DX1.h5.part", "P001-DX1.h5~", "#P001-DX1.h5#", "P009-DX1"):
        (features / name).write_bytes(content)
    (features / "log.txt").write_text("not a slide")
    found = predict_file(world / "local.safetensors", features, None, tmp_path / "out.csv")
    [told] = found.warnings
    assert found.n_patients == 3 and told.where == str(features)
    assert told.what.startswith("5 files are passed over") and "#P001-DX1.h5#" in told.what


@pytest.mark.parametrize("name", ["failed.h5", "failed.pt", "FAILED.H5", "failed.npz", "failed.npy", "failed.pth"])
def test_a_failed_extraction_does_not_vanish(name, tmp_path):
    make_site(tmp_path / "site", patients=4, folds=1)
    features = tmp_path / "site" / "features"
    (features / name).write_bytes(b"")
    model = BaseModel(Architecture(6, 4, 3, 4))
    save_base(tmp_path / "m.safetensors", model, m0_sha256="0" * 64)
    with pytest.raises(FeatureFileError, match=name):
        predict_file(tmp_path / "m.safetensors", features, None, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("kind", ["local", "steph"])
def test_a_prediction_that_is_not_finite_names_the_patient_and_nothing_is_written(world, tmp_path, kind, cli):
    features = make_site(tmp_path / "site", patients=4, folds=1) / "features"
    with h5py.File(features / "P002-DX1.h5", "r+") as file:
        file["features"][:] = 3e38  # finite, and its product with the weights is not
    words = ["predict", world / f"{kind}.safetensors", "--features", features, "--out", tmp_path / "risk.csv"]
    code, out, err = cli(*words, "--page", tmp_path / "page.html")
    assert (code, out) == (1, "") and "P002-DX1" in err and "not finite" in err
    assert not (tmp_path / "risk.csv").exists() and not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["labels.csv", "features/P000-DX1.h5", "features/risk.csv"])
def test_inputs_are_never_overwritten(name, tmp_path):
    site = make_site(tmp_path / "site", patients=4, folds=1)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    save_base(tmp_path / "m.safetensors", BaseModel(Architecture(6, 4, 3, 4)), m0_sha256="0" * 64)
    for out in (site / name, tmp_path / "m.safetensors"):
        with pytest.raises(DataError, match="would overwrite"):
            predict_file(tmp_path / "m.safetensors", site / "features", site / "labels.csv", out)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("other", [Extraction("virchow2"), Extraction(None, 40.0), Extraction(None, None, 512.0)])
def test_features_that_were_made_otherwise_are_refused_even_at_the_same_width(tmp_path, other):
    site = make_site(tmp_path / "site", patients=4, folds=1)
    save_base(tmp_path / "m.safetensors", BaseModel(Architecture(6, 4, 3, 4)), m0_sha256="0" * 64, extraction=other)
    with pytest.raises(
        EncoderError,
        match=f"P000-DX1.h5: the features are of test-encoder at 20x, patches of 256 pixels, the model's of {other}",
    ):
        predict_file(tmp_path / "m.safetensors", site / "features", None, tmp_path / "risk.csv")
