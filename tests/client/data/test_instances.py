"""Which instances a model looks at, and who their neighbours are, against a search by hand."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from each_case import each
from sites import make_site

from fedsteph.client.data import instances
from fedsteph.client.data.bags import open_cohort
from fedsteph.client.data.instances import ALL, GRAPHS, InstanceRule, NeighbourCache
from fedsteph.client.data.settings import DataSettings
from fedsteph.common.errors import FeatureFileError
from fedsteph.common.model.architecture import Architecture


def positions(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10_000, (n, 2)).astype(float)


def by_hand(xy: np.ndarray, k: int) -> list[set[float]]:
    """The distances of the ``k`` nearest others of every row."""
    every = np.linalg.norm(xy[:, None] - xy, axis=2)
    return [sorted(np.delete(row, i))[:k] for i, row in enumerate(every)]


def test_a_rule_is_its_models() -> None:
    assert InstanceRule.of(Architecture(6, 8, 8, 4)) == ALL
    graph = Architecture(6, 8, 8, 4, "patchgcn", most_instances=50)
    assert InstanceRule.of(graph) == InstanceRule(50, 8)


def test_a_draw_is_seeded_and_in_order() -> None:
    rule = InstanceRule(most=30)
    places = rule.places(100)
    assert len(set(places.tolist())) == 30 and (np.diff(places) > 0).all()
    assert np.array_equal(places, InstanceRule(most=30).places(100))
    assert places.max() > 30 and places.min() < 70  # from all of the bag
    assert np.array_equal(rule.places(30), np.arange(30)) and rule.n(7) == 7
    bag = torch.arange(200.0).view(100, 2)
    assert torch.equal(rule.rows(bag, None), bag[torch.from_numpy(places)])


@each(("sizes", "most"), [((40,), None), ((40, 25), None), ((40, 25), 30), ((9,), None)])
def test_neighbours_are_the_nearest_of_the_same_slide(sizes: tuple[int, ...], most: int | None) -> None:
    slides = [positions(n, i) for i, n in enumerate(sizes)]
    rule = InstanceRule(most, 8)
    near = rule.near(slides).astype(int)
    whole, which = np.concatenate(slides), np.repeat(np.arange(len(sizes)), sizes)
    places = rule.places(len(whole))
    whole, which = whole[places], which[places]
    assert near.shape == (len(whole), 8)
    for slide in range(len(sizes)):
        own = np.flatnonzero(which == slide)
        for i, expected in zip(own, by_hand(whole[own], 8), strict=True):
            assert set(near[i]) <= {*own.tolist()} - {i}
            np.testing.assert_allclose(sorted(np.linalg.norm(whole[near[i]] - whole[i], axis=1)), expected)


def test_few_patches_and_patches_at_one_place() -> None:
    assert np.array_equal(InstanceRule(None, 8).near([np.zeros((1, 2))]), np.zeros((1, 8)))
    three = InstanceRule(None, 8).near([positions(3)]).astype(int)
    assert [{*row} for row in three.tolist()] == [{1, 2}, {0, 2}, {0, 1}]
    alike = InstanceRule(None, 8).near([np.zeros((30, 2))]).astype(int)
    assert alike.min() >= 0 and alike.max() < 30 and all(i not in row for i, row in enumerate(alike.tolist()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_site(tmp_path_factory.mktemp("site") / "site", patients=6, max_instances=40)
    for i, path in enumerate(sorted((made / "features").iterdir())):
        with h5py.File(path, "r+") as file:
            file["coords"][:] = positions(len(file["coords"]), i)
    return made


def test_a_cohorts_bags_follow_the_rule_on_disk_and_without(folder, tmp_path) -> None:
    plain = open_cohort(folder, DataSettings())
    kept = open_cohort(folder, DataSettings(), tmp_path)
    rule = InstanceRule(20, 8)
    for cohort in (plain.under(rule), kept.under(rule)):
        assert cohort.row_width == 14
        for i in range(len(cohort)):
            whole, bag = plain.bag(i), cohort.bag(i)
            assert len(bag) == cohort.n_instances(i) == min(20, len(whole))
            assert torch.equal(bag[:, :6], whole[torch.from_numpy(rule.places(len(whole)))])
            assert bag[:, 6:].max() < len(bag)
    assert plain.under(ALL) is plain and torch.equal(kept.under(rule).bag(0), plain.under(rule).bag(0))


def test_neighbours_are_searched_for_once_until_slides_change(folder, tmp_path, monkeypatch) -> None:
    paths = sorted((folder / "features").iterdir())[:2]
    cache, rule = NeighbourCache(tmp_path / GRAPHS), InstanceRule(None, 8)
    first, searches = cache.read(rule, paths), []
    real = instances.read_coords
    monkeypatch.setattr(instances, "read_coords", lambda path: searches.append(path) or real(path))
    assert np.array_equal(cache.read(rule, paths), first) and searches == []
    (made,) = (tmp_path / GRAPHS).glob("*.npz")
    assert not any(path.stem in str(made) for path in paths)
    content = bytearray(made.read_bytes())
    content[len(content) // 2] ^= 1
    made.write_bytes(content)
    assert np.array_equal(cache.read(rule, paths), first) and searches == paths  # what was damaged is not used
    cache.read(InstanceRule(9, 8), paths)
    assert len(searches) == 4


def test_slides_without_coords_are_refused_by_name(tmp_path) -> None:
    made = make_site(tmp_path / "site", patients=4)
    for path in sorted((made / "features").iterdir())[:2]:
        with h5py.File(path, "r+") as file:
            del file["coords"]
    cohort = open_cohort(made, DataSettings())
    with pytest.raises(FeatureFileError) as caught:
        cohort.under(InstanceRule(None, 8))
    assert "2 of 5 slides do not say where their patches lie (P000-DX1.h5, P000-DX2.h5)" in caught.value.what
    assert cohort.under(InstanceRule(9)).bag(0).shape[1] == 6
