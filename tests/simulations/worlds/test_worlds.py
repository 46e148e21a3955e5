"""The synthetic worlds are those that their docstrings state."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest

from fedsteph.client.data.check import check_site
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.site.site import Site
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.concordance import c_index
from fedsteph.simulations.worlds.all_worlds import DEFAULT_WORLD, WORLDS, world_of
from fedsteph.simulations.worlds.drawn_sites import TRUTH_FILE, WIDTH, write_world
from fedsteph.simulations.worlds.kinds import KINDS
from fedsteph.simulations.worlds.six_cancers import SIX_CANCERS
from fedsteph.simulations.worlds.world import TARGET, World


def of_size(world: World, factor: float) -> World:
    """The same world with fewer patients, which is quicker; shuffled sites are small already."""
    sites = [one if one.shuffled else replace(one, n_patients=int(factor * one.n_patients)) for one in world.sites]
    return replace(world, sites=tuple(sites))


SMALLER = of_size(SIX_CANCERS, 0.5)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("six"), SMALLER, seed=7)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("kinds"), of_size(KINDS, 0.5), seed=7)


def patients(folder):
    labels = pd.read_csv(folder / "labels.csv").drop_duplicates("patient_id").set_index("patient_id")
    return labels.join(pd.read_csv(folder / TRUTH_FILE).set_index("patient_id"))


def mean_features(folder):
    """Mean instance of each patient's first slide, ``(n_patients, d)``, in the order of the labels."""
    slides = pd.read_csv(folder / "labels.csv").drop_duplicates("patient_id")["pathology_id"]
    bags = []
    for slide in slides:
        with h5py.File(folder / "features" / f"{slide}.h5") as file:
            bags.append(file["features"][()].mean(axis=0))
    return np.stack(bags)


def test_six_clean_site_folders_of_the_stated_size(six):
    assert [folder.name for folder in six] == [site.name for site in SIX_CANCERS.sites]
    for folder, site in zip(six, SMALLER.sites, strict=True):
        report = check_site(folder, DataSettings())
        assert report.ok, report.problems
        assert (report.patients, report.widths, report.splits) == (site.n_patients, (WIDTH,), 5)
        assert report.slides > report.patients
        assert report.layouts == ("trident",)
        assert report.instances is not None
        assert report.instances.min >= 12 and report.instances.max <= 32


def test_event_shares_are_as_stated(six):
    for folder, site in zip(six, SMALLER.sites, strict=True):
        assert patients(folder)["e"].mean() == pytest.approx(site.event_share, abs=1.01 / site.n_patients)


def test_truth_orders_the_outcomes_except_where_labels_were_shuffled(six):
    for folder, site in zip(six, SMALLER.sites, strict=True):
        table = patients(folder)
        truth = c_index(table["risk"].to_numpy(), table["t"].to_numpy(), table["e"].to_numpy())
        assert truth is not None
        if site.shuffled:
            assert 0.25 < truth < 0.75
        else:
            assert truth > 0.68


def test_the_numbers_of_the_six_cancers_stay_what_they_are(six):
    """Studies name this world and a seed: another draw would be another world."""
    table = patients(six[0])
    assert table["t"].head(3).tolist() == [696.9, 1757.0, 11.4]
    assert table["risk"].head(2).tolist() == pytest.approx([-1.800580958686551, -0.413857211611103], abs=1e-12)


def test_conflict_has_the_target_s_signs_reversed_and_kin_has_them_as_they_are():
    by_name = {site.name: np.array(site.diseases[0].shared) for site in SIX_CANCERS.sites}
    assert np.array_equal(by_name["kin"], by_name["target"])
    assert np.array_equal(by_name["conflict"], -by_name["target"])
    assert not by_name["stranger"].any()


def test_a_world_is_a_function_of_its_seed(tmp_path):
    for world in WORLDS.values():
        made = [
            write_world(tmp_path / world.name / name, of_size(world, 0.1), seed, n_folds=2)
            for name, seed in (("one", 7), ("again", 7), ("other", 8))
        ]
        for folder, same, different in zip(*made, strict=True):
            assert (folder / "labels.csv").read_bytes() == (same / "labels.csv").read_bytes()
            assert (folder / "labels.csv").read_bytes() != (different / "labels.csv").read_bytes()


def test_every_world_has_a_target_and_sources_and_an_unknown_one_is_refused_by_name():
    for name, world in WORLDS.items():
        assert world.name == name and TARGET in {site.name for site in world.sites} and len(world.sites) > 2
    assert DEFAULT_WORLD in WORLDS
    with pytest.raises(ConfigError, match="no world 'mars'") as error:
        world_of("mars")
    assert all(name in str(error.value.remedy) for name in WORLDS)


def test_a_kind_shows_in_the_mean_features_and_decides_the_sign(kinds):
    """A line through the mean features tells the kind; within the target, one ranking serves one kind alone."""
    folders = dict(zip([site.name for site in KINDS.sites], kinds, strict=True))
    target, x = patients(folders["target"]), mean_features(folders["target"])
    assert set(target["kind"]) == {"glandular", "solid"}
    seen = {kind: mean_features(folders[f"{kind}-a"]).mean(axis=0) for kind in ("glandular", "solid")}
    way = seen["solid"] - seen["glandular"]
    middle = (seen["solid"] + seen["glandular"]) @ way / 2
    told = np.where(x @ way > middle, "solid", "glandular")
    assert (told == target["kind"]).mean() > 0.85
    assert all(set(patients(folders[f"{kind}-{who}"])["kind"]) == {kind} for kind in seen for who in "ab")
    glandular, solid = (np.array(one.shared) for one in KINDS.sites[0].diseases)
    assert np.array_equal(glandular[:3], -solid[:3]) and glandular[3] == solid[3]


def test_hospitals_of_one_cancer_share_its_tissue_and_strangers_do_not(tmp_path):
    means = {}
    for name in ("hospitals", "strangers"):
        folders = write_world(tmp_path / name, of_size(WORLDS[name], 0.3), seed=3, n_folds=2)
        centres = [mean_features(folder).mean(axis=0) for folder in folders]
        means[name] = np.mean([np.linalg.norm(one - centres[0]) for one in centres[1:]])
    assert means["hospitals"] < 0.7 * means["strangers"]
    assert {Site.open(folder).file.cancer for folder in (tmp_path / "hospitals").iterdir()} == {"lung"}
    assert {Site.open(folder).file.cancer for folder in (tmp_path / "strangers").iterdir()} == {None}
