"""Whose patients are predicted, and by which models: a site as its site file says, and folders of models by hand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from client_builders import plain_c
from sites import make_site

import fedsteph
from fedsteph.client.models.model_file import Local, save_base, save_steph
from fedsteph.client.site.prediction import predict_file
from fedsteph.client.steph.mixture import Mixture
from fedsteph.client.steph.model import Steph
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.recipe import StephConfig
from fedsteph.common.errors import DataError, FedstephError, ModelFileError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model

SIZES = Architecture(width=6, embed=4, attention=3, n_bins=8)
M0 = "0" * 64
YAML = """data:
  columns: {patient: case, slide: slide_id, time: os_months, censorship: lost}
  time_unit: months
  match: [endings]
  exclude: [P000-DX2]
"""


@dataclass(frozen=True)
class World:
    folder: Path
    table: pd.DataFrame  # of the plain site

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """One site twice, plainly and as a hospital has it: names, unit and outcome otherwise, and a slide left out."""
    folder = tmp_path_factory.mktemp("prediction")
    for name in ("plain", "own"):
        make_site(folder / name, patients=8)
    table = pd.read_csv(folder / "plain/labels.csv")
    own = pd.DataFrame({"case": table["patient_id"], "slide_id": table["pathology_id"] + ".svs"})
    own["os_months"], own["lost"] = table["t"] / (365 / 12), 1 - table["e"]
    own.to_csv(folder / "own/labels.csv", index=False)
    (folder / "own/site.yaml").write_text(YAML)
    kept = table[table["pathology_id"] != "P000-DX2"]
    kept.to_csv(folder / "plain/labels.csv", index=False)
    reference = np.linspace(-8, 0, 101)
    save_base(folder / "m.safetensors", untrained_model(SIZES, 1), m0_sha256=M0, reference=reference, followed_years=3)
    return World(folder, kept)


def test_a_site_is_read_as_its_site_file_says(world, tmp_path):
    plain = predict_file(
        world / "m.safetensors", world / "plain/features", world / "plain/labels.csv", tmp_path / "a.csv"
    )
    patients = world.table.groupby("patient_id").first()
    risk = pd.read_csv(tmp_path / "a.csv").set_index("patient_id").loc[patients.index, "risk"].to_numpy()
    assert plain.c_index == pytest.approx(plain_c(patients["t"].to_numpy(), patients["e"].to_numpy(), risk))
    for site, features in ((world / "own", None), (world / "own/site.yaml", None), (None, world / "own")):
        found = predict_file(world / "m.safetensors", features, None, tmp_path / "b.csv", site=site)
        assert (found.c_index, found.n_comparable, found.warnings) == (plain.c_index, plain.n_comparable, ())
        assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    table = fedsteph.predict(world / "m.safetensors", site=fedsteph.Site.open(world / "own"))
    assert (tmp_path / "a.csv").read_text() == table.to_csv(index=False, float_format="%.9g")


def test_other_features_and_another_table_are_read_as_the_sites_own(world, tmp_path):
    (tmp_path / "new.csv").write_text("case,slide_id\nN1,P001-DX1.svs\nN2,P003-DX1.svs\n")
    words = world / "m.safetensors", world / "plain/features", tmp_path / "new.csv", tmp_path / "out.csv"
    found = predict_file(*words, site=world / "own")
    assert [view.id for view in found.views] == ["N1", "N2"] and found.c_index is None
    assert found.why_no_c_index == f"{tmp_path / 'new.csv'} has no column 'os_months' and no 'lost'"


def test_a_column_of_censorship_gives_the_c_index_without_a_site_too(world, tmp_path):
    table = world.table.assign(censorship=1 - world.table["e"]).drop(columns="e")
    results = []
    for name, rows in (("e", world.table), ("censorship", table), ("neither", table.drop(columns="censorship"))):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        words = world / "m.safetensors", world / "plain/features", tmp_path / f"{name}.csv", tmp_path / "out.csv"
        results.append(predict_file(*words))
    assert results[0].c_index == results[1].c_index != results[2].c_index
    assert results[2].why_no_c_index == f"{tmp_path / 'neither.csv'} has no column 'e' (or 'censorship')"


def test_whose_patients_must_be_said_once(world, tmp_path):
    model, out = world / "m.safetensors", tmp_path / "out.csv"
    for features, site, said in (
        (None, None, "whose patients to predict is not said"),
        (world / "plain", world / "own", "is a site folder, and another site is given"),
        (None, tmp_path / "absent", "there is no such site folder"),
        (None, world / "own/features", "cannot be read"),  # no labels.csv there
    ):
        with pytest.raises(FedstephError, match=said):
            predict_file(model, features, None, out, site=site)
    for taken in (world / "own/site.yaml", world / "own/labels.csv", world / "own/features/new.csv"):
        with pytest.raises(DataError, match="would overwrite"):
            predict_file(model, None, None, taken, site=world / "own")
        with pytest.raises(DataError, match="would overwrite"):
            predict_file(model, None, None, out, site=world / "own", page=taken)
    assert not out.exists()


def test_survival_ends_at_the_follow_up_of_the_training_patients(world, tmp_path, caplog):
    words = world / "plain/features", None, tmp_path / "out.csv"
    found = predict_file(world / "m.safetensors", *words)
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table)[-3:] == ["survival_1y", "survival_2y", "survival_3y"]
    assert found.followed_years == 3 and {len(view.survival) for view in found.views} == {3}
    save_base(tmp_path / "old.safetensors", untrained_model(SIZES, 1), m0_sha256=M0)
    found = predict_file(tmp_path / "old.safetensors", *words)
    assert [told.what[:40] for told in found.warnings] == ["does not state how long its training pat"]
    every = pd.read_csv(tmp_path / "out.csv")
    assert list(every) == ["patient_id", "risk", *(f"survival_{year}y" for year in range(1, 9))]
    pd.testing.assert_frame_equal(every[["risk", "survival_3y"]], table[["risk", "survival_3y"]])
    with caplog.at_level(logging.WARNING):
        fedsteph.predict(tmp_path / "old.safetensors", world / "plain/features")
    assert "old.safetensors: does not state" in caplog.text


def enhanced(seed: int, sources: int) -> Steph:
    torch.manual_seed(seed)
    theta_0 = torch.cat([p.detach().flatten() for p in untrained_model(SIZES, 0).encoder_state().values()])
    stack = 0.5 * torch.randn(1 + sources, len(theta_0))
    return Steph(Mixture(SIZES, theta_0, stack), StephConfig(K=1, output="softplus")).eval()


def test_a_folder_of_models_predicts_the_mean_and_its_spread(world, tmp_path):
    folder = tmp_path / "deployed"
    folder.mkdir()
    (folder / "fold_0.md").write_text("a card")
    for seed, (sources, years) in enumerate(((["a", "b"], 5), (["b", "c"], 4), (["a", "b"], 8))):
        reference = np.linspace(-9 - seed, 0, 101)
        local = Local(untrained_model(SIZES, 10 + seed))
        facts = {"m0_sha256": M0, "reference": reference, "local": local, "followed_years": years}
        save_steph(folder / f"fold_{seed}.safetensors", enhanced(seed, 2), sources, **facts)
    features = world / "plain/features"
    one = [fedsteph.predict(folder / f"fold_{k}.safetensors", features) for k in range(3)]
    found = predict_file(folder, features, None, tmp_path / "out.csv")
    assert (found.n_models, found.followed_years, found.warnings) == (3, 4, ())
    table = fedsteph.predict(folder, features)
    assert (tmp_path / "out.csv").read_text() == table.to_csv(index=False, float_format="%.9g")
    for name in ("risk", "percentile", "risk_local", *(f"survival_{year}y" for year in range(1, 5)), "w_b", "lam_b"):
        np.testing.assert_allclose(table[name], sum(each[name] for each in one) / 3, rtol=1e-12)
    np.testing.assert_allclose(table["w_c"], one[1]["w_c"] / 3)
    np.testing.assert_allclose(table["lam_a"], (one[0]["lam_a"] + one[2]["lam_a"]) / 2)
    low, middle, high = np.sort([each["risk"] for each in one], axis=0)
    np.testing.assert_allclose(table["risk_low"], low + 0.05 * (middle - low))  # 2.5% of the way over two steps
    np.testing.assert_allclose(table["risk_high"], high - 0.05 * (high - middle))
    assert "survival_5y" not in table and list(table)[:6] == [
        "patient_id",
        "risk",
        "percentile",
        "risk_local",
        "risk_low",
        "risk_high",
    ]


def test_a_local_model_stands_for_itself_beside_enhanced_ones(world, tmp_path):
    features, facts = world / "plain/features", {"m0_sha256": M0}
    own = untrained_model(SIZES, 1)
    save_base(tmp_path / "fold_0.safetensors", own, **facts)
    save_steph(tmp_path / "fold_1.safetensors", enhanced(0, 1), ["a"], **facts, local=Local(own))
    one, two = (fedsteph.predict(tmp_path / f"fold_{k}.safetensors", features) for k in range(2))
    table = fedsteph.predict(tmp_path, features)
    np.testing.assert_allclose(table["risk"], (one["risk"] + two["risk"]) / 2)
    np.testing.assert_allclose(table["risk_local"], one["risk"])
    np.testing.assert_allclose(table["w_a"], two["w_a"] / 2)


def test_models_that_do_not_fit_together_are_named(world, tmp_path):
    model, features = untrained_model(SIZES, 1), world / "plain/features"
    other = untrained_model(Architecture(6, 5, 3, 8), 1)
    facts = {"m0_sha256": M0, "extraction": Extraction("test-encoder")}
    for i, (said, write) in enumerate(
        (
            ("different M0", lambda path: save_base(path, model, m0_sha256="1" * 64)),
            ("architecture", lambda path: save_base(path, other, **facts)),
            ("for features of uni", lambda path: save_base(path, model, m0_sha256=M0, extraction=Extraction("uni"))),
            ("cannot be read as safetensors", lambda path: path.write_bytes(b"junk")),
        )
    ):
        folder = tmp_path / f"{i}"
        folder.mkdir()
        with pytest.raises(ModelFileError, match=r"holds no \.safetensors file"):
            fedsteph.predict(folder, features)
        save_base(folder / "fold_0.safetensors", model, **facts)
        save_base(folder / "fold_1.safetensors", model, **facts)
        assert {"risk_low", "risk_high"} <= {*fedsteph.predict(folder, features)}
        write(folder / "fold_2.safetensors")
        with pytest.raises(ModelFileError, match=said) as caught:
            fedsteph.predict(folder, features)
        assert caught.value.where == str(folder / "fold_2.safetensors")
