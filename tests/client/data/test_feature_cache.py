"""Features kept on disk: the same numbers, noticed changes, nothing half-written, and no word of whose they are."""

from __future__ import annotations

import errno
import gc
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors
import torch
from data_builders import HEADER, features, save, write_csv, write_h5, write_site
from sites import TINY, make_site

from fedsteph.client.data import feature_cache
from fedsteph.client.data.bags import Cohort, open_cohort
from fedsteph.client.data.feature_cache import FOLDER, FeatureCache
from fedsteph.client.data.formats import read_features
from fedsteph.client.data.settings import DataSettings, DiskCache
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.target.train_alone import local_recipe
from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import FeatureFileError, NonFiniteError, StorageError
from fedsteph.common.host import atomic

D = 4


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this very moment are taken for old ones; else no second opening could go by their times."""
    monkeypatch.setattr(feature_cache, "_SETTLED_NS", -(10**18))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / FOLDER


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_h5(tmp_path / "TCGA-P1-DX1.h5", features(300, D), chunks=(1, D), encoder="uni_v2")


@pytest.fixture
def cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder, "stored", D)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


def only(folder: Path) -> Path:
    (entry,) = entries(folder)
    return entry


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("the source was read")

    for name in ("read_features", "read_header", "_sha256"):
        monkeypatch.setattr(feature_cache, name, refuse)


def counted_builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    built: list[Path] = []

    def spy(path: Path, *, width: int | None = None) -> np.ndarray:
        built.append(path)
        return read_features(path, width=width)

    monkeypatch.setattr(feature_cache, "read_features", spy)
    return built


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "bfloat16"])
def test_stored_features_are_those_of_the_file_bit_for_bit(cache: FeatureCache, tmp_path: Path, dtype: str) -> None:
    if dtype == "bfloat16":
        path = save(tmp_path / "x.pt", torch.from_numpy(features(7, D)).bfloat16())
    else:
        path = write_h5(tmp_path / "x.h5", features(7, D).astype(dtype), chunks=(1, D))
    for _ in range(2):
        found = cache.read("x", path)
        assert found.dtype == (torch.float16 if dtype == "float16" else torch.float32) and found.is_contiguous()
        np.testing.assert_array_equal(found.float().numpy().view(np.int32), read_features(path).view(np.int32))


@pytest.mark.parametrize("layout", ["compressed", "contiguous", "leading axis"])
def test_every_layout_is_kept(cache: FeatureCache, tmp_path: Path, layout: str) -> None:
    values = features(9, D)[None] if layout == "leading axis" else features(9, D)
    path = write_h5(tmp_path / "x.h5", values, compression="gzip" if layout == "compressed" else None)
    np.testing.assert_array_equal(cache.read("x", path).numpy(), features(9, D))


def test_float16_rounds_as_numpy_does(folder: Path, tmp_path: Path) -> None:
    values = features(50, D)
    values[0] = [65504.0, -65504.0, 1e-7, 1e-12]
    path = write_h5(tmp_path / "x.h5", values)
    found = FeatureCache(folder, "float16", D).read("x", path)
    assert found.dtype == torch.float16
    np.testing.assert_array_equal(found.numpy().view(np.int16), values.astype(np.float16).view(np.int16))
    assert only(folder).stat().st_size < 50 * D * 2 + 600


@pytest.mark.parametrize("value", [65505.0, -7e4, 3e38])
def test_what_float16_cannot_hold_is_an_error_that_names_the_file(folder: Path, tmp_path: Path, value: float) -> None:
    path = write_h5(tmp_path / "x.h5", np.array([[1, value, 0, 0]], dtype=np.float32))
    with pytest.raises(FeatureFileError, match=r"x\.h5: has values up to .*Set data\.disk_cache to stored"):
        FeatureCache(folder, "float16", D).read("x", path)
    assert entries(folder) == [] and FeatureCache(folder, "stored", D).read("x", path)[0, 1] == np.float32(value)


def test_all_checks_of_a_file_are_made(cache: FeatureCache, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"x\.h5"):
        cache.read("x", write_h5(tmp_path / "x.h5", np.full((2, D), np.nan)))
    with pytest.raises(FeatureFileError, match=r"y\.h5: has 5 features per instance, expected 4"):
        cache.read("y", write_h5(tmp_path / "y.h5", features(2, 5)))
    with pytest.raises(FeatureFileError, match=r"z\.h5: cannot be opened \(No such file"):
        cache.read("z", tmp_path / "z.h5")
    assert entries(folder) == []


def test_an_unchanged_source_is_not_read_again(cache, source, folder, monkeypatch) -> None:
    cache.read("TCGA-P1-DX1", source)
    no_reading(monkeypatch)
    again = FeatureCache(folder, "stored", D)
    again.prune({"TCGA-P1-DX1": source})
    assert torch.equal(again.read("TCGA-P1-DX1", source), torch.from_numpy(features(300, D)))


@pytest.mark.parametrize("way", ["in place", "replaced"])
def test_a_change_that_hides_its_size_and_its_time_is_noticed(cache: FeatureCache, source: Path, way: str) -> None:
    cache.read("s", source)
    before = source.stat()
    if way == "in place":
        with h5py.File(source, "r+") as file:
            file["features"][0, 0] = 7.0
    else:
        content = source.read_bytes().replace(features(300, D)[0].tobytes(), np.full(D, 7, np.float32).tobytes())
        atomic.write_bytes(source, content)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    while source.stat().st_ctime_ns == before.st_ctime_ns:  # until the file system's clock ticks, some milliseconds
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.read("s", source)[0, 0] == 7.0


def test_a_source_that_is_too_young_for_its_times_is_hashed(cache, source, folder, monkeypatch) -> None:
    monkeypatch.setattr(feature_cache, "_SETTLED_NS", 10**18)
    hashed: list[Path] = []
    original = feature_cache._sha256
    monkeypatch.setattr(feature_cache, "_sha256", lambda path: hashed.append(path) or original(path))
    built = counted_builds(monkeypatch)
    for _ in range(3):
        cache.read("s", source)
    assert (len(hashed), len(built)) == (3, 1)
    kept = only(folder).stat().st_ino
    monkeypatch.setattr(feature_cache, "_SETTLED_NS", -(10**18))
    for _ in range(2):
        cache.read("s", source)
    assert (len(hashed), len(built)) == (4, 1)
    assert only(folder).stat().st_ino != kept, "its times are written down once it is old enough"


def test_the_same_content_with_other_times_is_not_made_again(cache, source, monkeypatch) -> None:
    before = cache.read("s", source)
    built = counted_builds(monkeypatch)
    os.utime(source, ns=(1, 1))
    assert torch.equal(cache.read("s", source), before) and built == []
    no_reading(monkeypatch)
    assert torch.equal(cache.read("s", source), before), "the new times are known now"


@pytest.mark.parametrize("damage", ["cut", "cut to nothing", "longer", "header", "other format", "other width"])
def test_a_damaged_file_is_made_again(cache: FeatureCache, source: Path, folder: Path, damage: str) -> None:
    cache.read("s", source)
    path, content = only(folder), only(folder).read_bytes()
    damaged = {
        "cut": content[:-1],
        "cut to nothing": b"",
        "longer": content + b"x",
        "header": content[:20] + b"\xff" + content[21:],
        "other format": content.replace(b"feature-cache/v1", b"feature-cache/v0"),
        "other width": content.replace(b"[300, 4]", b"[200, 6]"),
    }[damage]
    assert damaged != content
    path.write_bytes(damaged)
    assert torch.equal(cache.read("s", source), torch.from_numpy(features(300, D)))
    assert only(folder).read_bytes() == content


def test_features_kept_in_another_way_are_made_again(cache: FeatureCache, source: Path, folder: Path) -> None:
    cache.read("s", source)
    assert FeatureCache(folder, "float16", D).read("s", source).dtype == torch.float16
    assert cache.read("s", source).dtype == torch.float32 and len(entries(folder)) == 1


@pytest.mark.parametrize("why", ["gone", "no longer listed", "another size", "kept otherwise", "cut"])
def test_what_serves_no_source_is_removed(cache: FeatureCache, source: Path, folder: Path, why: str) -> None:
    cache.read("s", source)
    other = write_h5(source.with_name("other.h5"), features(5, D))
    cache.read("other", other)
    files = {"s": source, "other": other}
    if why == "gone":
        source.unlink()
    elif why == "no longer listed":
        del files["s"]
    elif why == "another size":
        write_h5(source, features(500, D))
    elif why == "cut":
        os.truncate(cache._path("s"), 300)
    FeatureCache(folder, "float16" if why == "kept otherwise" else "stored", D).prune(files)
    assert len(entries(folder)) == (0 if why == "kept otherwise" else 1)


def test_only_what_the_cache_made_is_removed(cache: FeatureCache, source: Path, folder: Path) -> None:
    """Whatever folder a site file makes of ``state``, no feature of the site's own is at risk."""
    cache.read("s", source)
    for name in ("slide.h5", "x.safetensors", f"{'a' * 32}.h5", ".hidden"):
        (folder / name).write_bytes(b"not the cache's")
    dead = folder / f".{'a' * 32}.safetensors.k1.part"
    dead.write_bytes(b"of a process that was killed")
    cache.prune({"s": source})
    assert len(entries(folder)) == 5 and not dead.exists()
    feature_cache.clear(folder)
    assert len(entries(folder)) == 4
    feature_cache.clear(folder.parent / "absent")


@pytest.mark.parametrize("crash", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_build_that_stops_leaves_nothing(cache, source, folder, monkeypatch, crash, owner, step) -> None:
    def crashing(*_: object) -> None:
        assert len(entries(folder)) == 1
        raise crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crashing)
        with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
            cache.read("s", source)
    assert entries(folder) == []
    if isinstance(crash, OSError):
        text = str(caught.value)
        assert "No space left on device" in text and "set data.disk_cache to never" in text and "TCGA" not in text
    assert torch.equal(cache.read("s", source), torch.from_numpy(features(300, D)))


def test_a_folder_that_cannot_be_made_is_a_typed_error(source: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StorageError, match=r"set data\.disk_cache to never"):
        FeatureCache(tmp_path / "state" / FOLDER, "stored", D).read("s", source)


def test_neither_names_nor_metadata_tell_whose_features_they_are(cache, source, folder) -> None:
    cache.read("TCGA-P1-DX1", source)
    path = only(folder)
    with safetensors.safe_open(path, framework="np") as file:
        told = file.metadata()
        assert list(file.keys()) == ["features"]
    assert told.keys() == {"format", "keep", "source_sha256", "size", "mtime_ns", "ctime_ns", "inode"}
    content = path.name.encode() + path.read_bytes()
    assert not any(word in content for word in (b"TCGA", b"P1", b"DX1", b".h5", str(source.parent).encode()))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()} == {0o600}


def test_what_a_caller_does_to_a_bag_stays_in_its_process(cache: FeatureCache, source: Path, folder: Path) -> None:
    content = (cache.read("s", source), only(folder).read_bytes())[1]
    cache.read("s", source).zero_()
    assert only(folder).read_bytes() == content


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted by Linux")
def test_a_kept_bag_costs_no_memory_of_its_size(cache: FeatureCache, tmp_path: Path) -> None:
    path = write_h5(tmp_path / "large.h5", features(20_000, 256))  # 20 MB
    cache.width = 256
    cache.read("s", path)
    gc.collect()
    before = _anonymous()
    bag = cache.read("s", path)
    assert bag.sum() != 0 and _anonymous() - before < 4 * 2**20 and bag.data_ptr() % 64 == 0


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


# Cohorts, which decide whether there is a cache at all. write_site: 117 instances x 4 x 4 bytes = 1,872 bytes.
FITS = 1872 / 2**30


def opened(tmp_path: Path, disk_cache: DiskCache, cache_gib: float) -> Cohort:
    folder = tmp_path / "site"
    if not folder.exists():
        write_site(folder)
    return open_cohort(folder, DataSettings(cache_gib=cache_gib, disk_cache=disk_cache), tmp_path / "state")


@pytest.mark.parametrize(
    ("disk_cache", "cache_gib", "kept", "sentence"),
    [
        ("auto", FITS, 0, "features: 1.8 KiB, held in memory"),
        ("auto", FITS * 0.999, 2, r"features: 1.8 KiB, more than data.cache_gib \(.*\): kept as stored on disk"),
        ("stored", FITS, 2, "features: 1.8 KiB: kept as stored on disk, in the state folder"),
        ("float16", FITS, 2, "features: 1.8 KiB: kept as float16 on disk, in the state folder"),
        ("never", FITS, 0, "features: 1.8 KiB, held in memory"),
        ("never", 0.0, 0, r"more than data.cache_gib \(0 GiB\): read from their files again and again"),
    ],
)
def test_what_is_kept(tmp_path, folder, disk_cache, cache_gib, kept, sentence) -> None:
    cohort = opened(tmp_path, disk_cache, cache_gib)
    for _ in range(2):
        bag = cohort.bag(0)
        expected = np.concatenate([features(3, 4, 0), features(15, 4, 12)])
        if disk_cache == "float16":
            expected = expected.astype(np.float16).astype(np.float32)
        assert bag.dtype == torch.float32
        np.testing.assert_array_equal(bag.numpy(), expected)
    assert (len(entries(folder)) if folder.exists() else 0) == kept and folder.parent.exists() is bool(kept)
    assert re.search(sentence, cohort.storage) and cohort.subset(["P01"]).storage == cohort.storage
    assert str(tmp_path) not in cohort.storage


def test_a_setting_that_keeps_nothing_removes_what_was_kept(tmp_path: Path, folder: Path) -> None:
    opened(tmp_path, "stored", 0).bag(0)
    open_cohort(tmp_path / "site", DataSettings())
    assert len(entries(folder)) == 2, "a look at the headers leaves the disk alone"
    opened(tmp_path, "never", 0)
    assert entries(folder) == []


def test_a_mapped_bag_is_not_held_in_memory_and_a_joined_one_is(tmp_path: Path) -> None:
    cohort = opened(tmp_path, "stored", 1)
    assert cohort.bag(1) is not cohort.bag(1) and cohort.cache.used == 0 and cohort.bag(0) is cohort.bag(0)
    assert cohort.cache.used == 18 * 4 * 4
    rounded = opened(tmp_path, "float16", 1)
    assert rounded.bag(1) is rounded.bag(1)


def test_a_second_opening_reads_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path, "stored", 0)
    bags = [first.bag(i) for i in range(len(first))]
    no_reading(monkeypatch)
    second = opened(tmp_path, "stored", 0)
    assert all(torch.equal(second.bag(i), bag) for i, bag in enumerate(bags))


def test_a_patient_who_leaves_leaves_the_disk(tmp_path: Path, folder: Path) -> None:
    cohort = opened(tmp_path, "stored", 0)
    for i in range(len(cohort)):
        cohort.bag(i)
    assert len(entries(folder)) == 13
    rows = [(f"P{i:02d}", f"P{i:02d}-DX1.uuid", "KIRP", 400.0, 1) for i in range(1, 12)]
    write_csv(tmp_path / "site" / "labels.csv", [HEADER, *rows])
    opened(tmp_path, "stored", 0)
    assert len(entries(folder)) == 11


def test_several_at_once_make_a_slide_once(cache: FeatureCache, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, hashed, sha256 = counted_builds(monkeypatch), [], feature_cache._sha256
    monkeypatch.setattr(feature_cache, "_sha256", lambda path: hashed.append(path) or sha256(path))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.read("s", source), range(8)))
    assert len(built) == len(hashed) == 1 and all(torch.equal(bag, found[0]) for bag in found)


def test_a_site_keeps_them_in_its_state_and_rounded_features_have_work_of_their_own(tmp_path: Path) -> None:
    make_site(tmp_path / "site", patients=12)
    recipe = local_recipe(Site.open(tmp_path / "site", device="cpu"), load_config(None, TINY))
    assert not (tmp_path / "site" / "fedsteph-state").exists()
    work = {}
    for disk_cache in ("never", "stored", "float16"):
        (tmp_path / "site" / "site.yaml").write_text(f"data: {{disk_cache: {disk_cache}}}\n")
        workspace = Workspace.open(Site.open(tmp_path / "site", device="cpu"), recipe)
        workspace.train_part(0).bag(0)
        assert (workspace.site.state / FOLDER).exists() is (disk_cache != "never")
        work[disk_cache] = workspace.base_folder
    assert work["never"] == work["stored"] != work["float16"]
