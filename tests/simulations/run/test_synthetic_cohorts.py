"""The synthetic world is the one that its docstring states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedsteph.client.data.check import check_site
from fedsteph.client.data.settings import DataSettings
from fedsteph.common.model.concordance import c_index
from fedsteph.simulations.run import synthetic_cohorts
from fedsteph.simulations.run.synthetic_cohorts import TRUTH_FILE, WIDTH, WORLD, write_world

SMALLER = [
    site if site.shuffled else replace(site, n_patients=site.n_patients // 2) for site in WORLD
]  # which is quicker


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_cohorts, "WORLD", SMALLER)
        return write_world(tmp_path_factory.mktemp("world"), seed=7)


def patients(folder):
    labels = pd.read_csv(folder / "labels.csv").drop_duplicates("patient_id").set_index("patient_id")
    return labels.join(pd.read_csv(folder / TRUTH_FILE).set_index("patient_id"))


def test_six_clean_site_folders_of_the_stated_size(world):
    assert [folder.name for folder in world] == [site.name for site in WORLD]
    for folder, site in zip(world, SMALLER, strict=True):
        report = check_site(folder, DataSettings())
        assert report.ok, report.problems
        assert (report.patients, report.widths, report.splits) == (site.n_patients, (WIDTH,), 5)
        assert report.slides > report.patients
        assert report.layouts == ("trident",)
        assert report.instances is not None
        assert report.instances.min >= 12 and report.instances.max <= 32


def test_event_shares_are_as_stated(world):
    for folder, site in zip(world, SMALLER, strict=True):
        assert patients(folder)["e"].mean() == pytest.approx(site.event_share, abs=1.01 / site.n_patients)


def test_truth_orders_the_outcomes_except_where_labels_were_shuffled(world):
    for folder, site in zip(world, SMALLER, strict=True):
        table = patients(folder)
        truth = c_index(table["risk"].to_numpy(), table["t"].to_numpy(), table["e"].to_numpy())
        assert truth is not None
        if site.shuffled:
            assert 0.25 < truth < 0.75
        else:
            assert truth > 0.68


def test_conflict_has_the_target_s_signs_reversed_and_kin_has_them_as_they_are():
    by_name = {site.name: np.array(site.shared) for site in WORLD}
    assert np.array_equal(by_name["kin"], by_name["target"])
    assert np.array_equal(by_name["conflict"], -by_name["target"])
    assert not by_name["stranger"].any()


def test_the_world_is_a_function_of_its_seed(tmp_path, monkeypatch):
    """Of fewer patients, which is quicker."""
    monkeypatch.setattr(synthetic_cohorts, "WORLD", [replace(site, n_patients=20) for site in WORLD])
    worlds = [write_world(tmp_path / name, seed) for name, seed in (("one", 7), ("again", 7), ("other", 8))]
    for folder, same, different in zip(*worlds, strict=True):
        assert (folder / "labels.csv").read_bytes() == (same / "labels.csv").read_bytes()
        assert (folder / "labels.csv").read_bytes() != (different / "labels.csv").read_bytes()
