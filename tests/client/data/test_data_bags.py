"""A cohort: bags from files on demand, within a memory budget that all its subsets share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_builders import HEADER, features, write_csv, write_h5, write_site

from fedsteph.client.data import bags
from fedsteph.client.data.bags import BagCache, Cohort, open_cohort
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.tables.labels import Patient
from fedsteph.common.errors import DataError, NonFiniteError, SplitError, WidthError


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The slides that were read from disk, in order."""
    read: list[str] = []
    original = bags.read_features

    def spy(path: Path, *, width: int | None = None) -> np.ndarray:
        read.append(path.stem)
        return original(path, width=width)

    monkeypatch.setattr(bags, "read_features", spy)
    return read


def test_a_cohort_of_a_folder(site: Path) -> None:
    cohort = open_cohort(site, DataSettings())
    assert len(cohort) == 12 and cohort.width == 4
    assert [patient.id for patient in cohort.patients] == [f"P{i:02d}" for i in range(12)]
    np.testing.assert_array_equal(cohort.times, 400.0 + 50 * np.arange(12))
    np.testing.assert_array_equal(cohort.events, np.arange(12) % 2)
    assert cohort.dropped == ()


def test_a_bag_is_all_slides_of_a_patient_in_order(site: Path) -> None:
    bag = open_cohort(site, DataSettings()).bag(0)
    expected = np.concatenate([features(3, 4, 0), features(15, 4, 12)])
    assert bag.dtype == torch.float32 and bag.is_contiguous()
    np.testing.assert_array_equal(bag.numpy(), expected)


def test_opening_reads_no_values(site: Path, reads: list[str]) -> None:
    write_h5(site / "features" / "P03-DX1.uuid.h5", np.full((2, 4), np.nan), encoder="uni_v2")
    cohort = open_cohort(site, DataSettings())
    assert reads == []
    with pytest.raises(NonFiniteError, match=r"P03-DX1\.uuid\.h5"):
        cohort.bag(3)


def test_subsets_share_the_cache_and_keep_the_order_given(site: Path, reads: list[str]) -> None:
    cohort = open_cohort(site, DataSettings())
    first, second = cohort.subset(["P03", "P01"]), cohort.subset(iter(("P01",)))
    assert [patient.id for patient in first.patients] == ["P03", "P01"] and first.times.tolist() == [550.0, 450.0]
    assert first.bag(1) is second.bag(0) is cohort.bag(1) and reads == ["P01-DX1.uuid"] and len(cohort.subset([])) == 0


def test_an_unknown_patient_is_refused(site: Path) -> None:
    with pytest.raises(SplitError, match=r"2 patients \(first: 'X'\)"):
        open_cohort(site, DataSettings()).subset(["P01", "X", "Y"])


def test_no_cache_reads_afresh(site: Path, reads: list[str]) -> None:
    cohort = open_cohort(site, DataSettings(cache_gib=0))
    assert torch.equal(cohort.bag(1), cohort.bag(1)) and reads == ["P01-DX1.uuid"] * 2


def test_the_cache_lets_go_of_what_was_used_longest_ago() -> None:
    cache, bag = BagCache(3 * 40), torch.zeros(10)
    for key in "abc":
        cache.put(key, bag)
    assert cache.get("a") is bag
    cache.put("d", bag)
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"] and cache.used == 120
    cache.put("e", torch.zeros(20))
    assert [key for key in "acde" if cache.get(key) is not None] == ["d", "e"]
    cache.put("too large", torch.zeros(31))
    assert cache.get("too large") is None and cache.used == 120


def test_a_file_that_changed_its_width_is_refused(site: Path) -> None:
    cohort = open_cohort(site, DataSettings())
    write_h5(site / "features" / "P05-DX1.uuid.h5", features(3, 5))
    with pytest.raises(WidthError, match=r"P05-DX1\.uuid\.h5: has 5 features per instance, expected 4"):
        cohort.bag(5)


def test_a_cohort_without_a_folder(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "x.h5", features(2, 3))
    cohort = Cohort([Patient("A", 1.0, 1, ("S", "S2"))], {"S": path, "S2": path}, 3, BagCache(1e9))
    assert cohort.bag(0).shape == (4, 3)


def test_excluded_slides_and_patients(site: Path) -> None:
    settings = DataSettings(exclude=("P00-DX2.uuid", "P04-DX1.uuid"))
    cohort = open_cohort(site, settings)
    assert cohort.bag(0).shape == (3, 4) and len(cohort) == 11 and cohort.dropped == ("P04",)
    assert cohort.subset(["P05"]).dropped == ("P04",)


def test_every_error_comes_at_once(site: Path) -> None:
    (site / "features" / "P01-DX1.uuid.h5").unlink()
    (site / "features" / "P02-DX1.uuid.h5").write_bytes(b"garbage")
    write_h5(site / "features" / "P03-DX1.uuid.h5", features(3, 7), encoder="uni_v2", magnification=20)
    write_h5(site / "features" / "stray.h5", features(3, 4))
    rows = (site / "labels.csv").read_text().replace("P05-DX1.uuid,KIRP,650.0,1", "P05-DX1.uuid,KIRP,x,1")
    (site / "labels.csv").write_text(rows)
    with pytest.raises(DataError, match="4 problems found") as caught:
        open_cohort(site, DataSettings())
    text = str(caught.value)
    lines = text.splitlines()
    assert lines[-1].startswith(f"{site}: the data cannot be used")
    assert [line.split(": ")[0] for line in lines[:-2]] == [
        "labels.csv:7",
        "features",
        "features/P02-DX1.uuid.h5",
        "features/P03-DX1.uuid.h5",
    ]
    assert "P01-DX1.uuid" in lines[1] and "stray" not in text


def test_errors_of_a_kind_are_one_line(tmp_path: Path) -> None:
    rows = [(f"P{i}", f"S{i}", "K", "x", 1) for i in range(50)]
    (tmp_path / "features").mkdir()
    write_h5(tmp_path / "features" / "S0.h5", features())
    write_csv(tmp_path / "labels.csv", [HEADER, *rows])
    with pytest.raises(DataError, match="99 problems found") as caught:
        open_cohort(tmp_path, DataSettings())
    times, files, *_ = str(caught.value).splitlines()
    assert times.startswith(
        "labels.csv:2: 't' is 'x', not a number (and 49 more of this kind: labels.csv:3, labels.csv:4"
    )
    assert "'S1' has no feature file (and 48 more of this kind: 'S10', 'S11'" in files


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_an_empty_or_absent_folder(folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)features folder cannot be read.*labels\.csv: cannot be read"):
        open_cohort(tmp_path / folder, DataSettings())
