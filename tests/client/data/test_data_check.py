"""The full check of a site: one report with everything it has and everything that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_builders import HEADER, features, write_csv, write_h5, write_site

from fedsteph.client.data.bags import open_cohort
from fedsteph.client.data.check import InstanceCounts, SiteReport, check_site
from fedsteph.client.data.settings import DataSettings
from fedsteph.client.data.tables.splits import make_splits, read_splits
from fedsteph.common.errors import DataError

UNI = {"encoder": "uni_v2", "magnification": 20, "patch_size": 256}
EXPORT = Path(__file__).resolve().parents[3] / "../shared/data/export.py"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site")


def test_a_good_site(site: Path) -> None:
    report = check_site(site, DataSettings())
    assert report == SiteReport(
        folder=str(site),
        patients=12,
        slides=13,
        events=6,
        projects=("KIRP",),
        instances=InstanceCounts(3, 9, 15, 117),
        layouts=("trident",),
        widths=(4,),
        dtypes=("float32",),
        encoders=("uni_v2",),
        magnifications=(20.0,),
        patch_sizes=(256.0,),
        time_unit="days",
        follow_up_days=(400.0, 950.0),
        splits=0,
        splits_source="made from a seed",
        storage="features: 1.8 KiB, held in memory",
        problems=(),
    )
    assert report.ok


def test_the_report_is_strict_json(site: Path) -> None:
    (site / "features" / "P01-DX1.uuid.h5").unlink()
    content = json.loads(json.dumps(check_site(site, DataSettings()).to_dict(), allow_nan=False))
    assert content["instances"]["total"] == 117 - 4 and content["problems"][0]["severity"] == "error"


def test_progress_is_told_per_file(site: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_site(site, DataSettings(), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 13) for i in range(1, 14)]


def test_what_lies_beside_the_features_is_no_slide(site: Path) -> None:
    folder = site / "features"
    (folder / "visualization").mkdir()
    write_h5(folder / "visualization" / "x.h5", features())
    write_h5(folder / ".P01-DX1.uuid.h5.part", features())
    (folder / "._P01-DX1.uuid.h5").write_bytes(b"Mac OS X")
    (folder / "_config_feats.json").write_text("{}")
    (folder / "P02-DX1.uuid.json").write_text("{}")
    (folder / "empty.log").touch()
    assert check_site(site, DataSettings()).ok


def test_files_of_several_layouts_make_one_site(site: Path) -> None:
    folder = site / "features"
    write_h5(folder / "P01-DX1.uuid.h5", features(3, 4)[None].astype(np.float16))
    (folder / "P02-DX1.uuid.h5").unlink()
    torch.save({"features": torch.tensor(features(9, 4, 99))}, folder / "P02-DX1.uuid.pt")
    report = check_site(site, DataSettings())
    assert report.ok and report.layouts == ("pt", "trident", "uni2-h") and report.dtypes == ("float16", "float32")


def test_splits_of_files(site: Path) -> None:
    ids = [f"P{i:02d}" for i in range(12)]
    for k in range(2):
        test, train = ids[k::2], ids[1 - k :: 2]
        write_csv(site / f"splits_{k}.csv", [("", "train", "test"), *zip(range(6), train, test, strict=True)])
    report = check_site(site, DataSettings())
    assert (report.ok, report.splits, report.splits_source) == (True, 2, "files")


Break = Callable[[Path], object]


def slide(site: Path, i: int) -> Path:
    return site / "features" / f"P{i:02d}-DX1.uuid.h5"


def relabel(site: Path, old: str, new: str) -> None:
    path = site / "labels.csv"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "options", "severity", "fragments"),
    [
        (lambda s: slide(s, 1).unlink(), {}, "error", ("'P01-DX1.uuid' has no feature file", "data.exclude")),
        (
            lambda s: write_h5(s / "features/new.1.h5", features(), **UNI),
            {},
            "warning",
            ("new.1.h5", "'new.1' is not in"),
        ),
        (
            lambda s: write_h5(slide(s, 1).with_suffix(".pt"), features(), **UNI),
            {},
            "error",
            ("2 feature files: P01-DX1.uuid.h5, P01-DX1.uuid.pt",),
        ),
        (
            lambda s: write_h5(slide(s, 1), features(4, 9), **UNI),
            {},
            "error",
            ("P01-DX1", "width is 9, while 12 of 13 files have 4"),
        ),
        (
            lambda s: write_h5(slide(s, 1), features(4, 4), encoder="uni_v1", magnification=20),
            {},
            "error",
            ("P01-DX1", "encoder is uni_v1, while 12 of 13 files have uni_v2"),
        ),
        (
            lambda s: write_h5(slide(s, 1), features(4, 4), encoder="uni_v2", magnification=40),
            {},
            "error",
            ("P01-DX1", "magnification is 40.0, while 12 of 13 files have 20.0"),
        ),
        (
            lambda s: write_h5(slide(s, 1), features(4, 4), **UNI | {"patch_size": 512}),
            {},
            "error",
            ("P01-DX1", "patch size is 512.0, while 12 of 13 files have 256.0"),
        ),
        (
            lambda s: write_h5(slide(s, 1), np.full((2, 4), np.nan), **UNI),
            {},
            "error",
            ("P01-DX1", "8 values that are NaN"),
        ),
        (lambda s: write_h5(slide(s, 1), features(0, 4), **UNI), {}, "error", ("P01-DX1", "no instance")),
        (lambda s: slide(s, 1).write_bytes(b""), {}, "error", ("P01-DX1", "0 bytes")),
        (lambda s: slide(s, 1).write_bytes(slide(s, 1).read_bytes()[:-9]), {}, "error", ("P01-DX1", "truncated")),
        (lambda s: None, {"exclude": ("P99",)}, "warning", ("'P99' does not exist", "site.yaml")),
        (lambda s: None, {"exclude": ("P01-DX1.uuid",)}, "warning", ("labels.csv", "'P01' is left out")),
        (lambda s: None, {"time_unit": "years"}, "error", ("labels.csv:2", "400.0 years, more than 150 years")),
        (lambda s: None, {"labels": "other.csv"}, "error", ("other.csv", "No such file")),
        (lambda s: None, {"features": "h5"}, "error", ("h5", "No such file")),
        (lambda s: (s / "h5").mkdir(), {"features": "h5"}, "error", ("h5", "holds no file")),
        (lambda s: None, {"features": "labels.csv"}, "error", ("labels.csv", "Not a directory")),
        (lambda s: relabel(s, "500.0,0", "500.0,?"), {}, "error", ("labels.csv:4", "'e' is '?'")),
        (
            lambda s: write_csv(s / "splits_0.csv", [("train", "test"), ("P01", "P01")]),
            {},
            "error",
            ("splits_0.csv", "in both"),
        ),
        (
            lambda s: write_csv(s / "splits_0.csv", [("train", "test"), ("P01", "X")]),
            {},
            "error",
            ("splits_0.csv", "'X'"),
        ),
    ],
)
def test_a_problem_is_reported_and_not_raised(damage, options, severity, fragments, site) -> None:
    damage(site)
    report = check_site(site, DataSettings(**options))
    problem = report.problems[0]
    text = f"{problem.where} {problem.what} {problem.remedy}"
    assert not report.ok and problem.severity == severity
    assert all(fragment in text for fragment in fragments), text
    assert problem.remedy
    # One mistake is one problem, unless it is the unit of every row.
    assert len(report.problems) == (13 if options.get("time_unit") else 1), report.problems


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_an_empty_or_absent_folder(folder: str, tmp_path: Path) -> None:
    report = check_site(tmp_path / folder, DataSettings())
    assert [problem.severity for problem in report.problems] == ["error", "error"]
    assert (report.patients, report.instances, report.follow_up_days) == (0, None, None)
    json.dumps(report.to_dict())


def test_everything_is_reported_at_once(site: Path) -> None:
    relabel(site, "P05-DX1.uuid,KIRP,650.0,1", "P05-DX1.uuid,KIRP,-1,x")
    write_h5(slide(site, 5), np.full((2, 4), np.inf), **UNI)  # its row is bad too
    write_h5(slide(site, 6), np.full((2, 4), np.inf), **UNI)
    slide(site, 7).unlink()
    write_csv(site / "splits_0.csv", [("train", "test"), ("P01", "P05"), ("P02", "P01")])
    problems = check_site(site, DataSettings()).problems
    assert [Path(problem.where).name for problem in problems] == [
        "labels.csv:7",
        "labels.csv:7",
        "features",
        "P05-DX1.uuid.h5",
        "P06-DX1.uuid.h5",
        "splits_0.csv",
    ]


def test_an_excluded_slide_may_be_broken_absent_or_unlabelled(site: Path) -> None:
    slide(site, 1).write_bytes(b"garbage")
    slide(site, 2).unlink()
    write_h5(site / "features" / "new.h5", features(), **UNI)
    excluded = ("P01-DX1.uuid", "P02-DX1.uuid", "new", "P00-DX2.uuid")
    report = check_site(site, DataSettings(exclude=excluded))
    assert [problem.what for problem in report.problems] == [
        "the patient 'P01' is left out, as all slides are excluded",
        "the patient 'P02' is left out, as all slides are excluded",
    ]
    assert (report.patients, report.slides) == (10, 10)


def test_splits_may_name_patients_who_are_left_out(site: Path) -> None:
    write_csv(site / "splits_0.csv", [("train", "test"), ("P01", "P02"), ("P03", "")])
    settings = DataSettings(exclude=("P01-DX1.uuid",))
    assert [problem.severity for problem in check_site(site, settings).problems] == ["warning"]
    cohort = open_cohort(site, settings)
    [split], problems = read_splits(site, [p.id for p in cohort.patients], cohort.dropped)
    assert problems == [] and len(cohort.subset(split.train)) == 1


def test_a_site_with_every_slide_excluded(site: Path) -> None:
    slides = tuple(path.stem for path in (site / "features").iterdir())
    with pytest.raises(DataError, match="no patient is left"):
        open_cohort(site, DataSettings(exclude=slides))


def test_a_broken_file_without_a_label_is_nobodys_problem(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "site", 3)
    (folder / "features" / "notes.txt").write_text("hello")
    write_csv(folder / "labels.csv", [HEADER, *((f"P0{i}", f"P0{i}-DX1.uuid", "K", 5, 1) for i in range(3))])
    report = check_site(folder, DataSettings())
    assert [problem.what for problem in report.problems] == ["the slide 'P00-DX2.uuid' is not in labels.csv"]


@pytest.mark.cohorts
@pytest.mark.skipif(not EXPORT.is_file(), reason="the real cohorts are not beside this checkout")
@pytest.mark.parametrize(("kind", "cohort", "several"), [("rna", "kirp", False), ("hif", "luad", True)])
def test_a_real_cohort(kind: str, cohort: str, several: bool, tmp_path: Path) -> None:
    options = ["--kind", kind, "--cohorts", cohort, "--out", str(tmp_path)]
    subprocess.run([sys.executable, str(EXPORT), *options], check=True, capture_output=True)
    folder = tmp_path / cohort
    report = check_site(folder, DataSettings())
    # Of three patients, the published features have one slide under two names.
    twice = {p.what for p in report.problems if p.severity == "warning" and "has the same features" in p.what}
    assert len(report.problems) == len(twice) == (3 if kind == "hif" else 0)
    assert report.projects == (f"TCGA-{cohort.upper()}",) and (report.splits, report.splits_source) == (5, "files")
    assert (report.slides > report.patients) is several
    patients = open_cohort(folder, DataSettings())
    splits, _ = read_splits(folder, [patient.id for patient in patients.patients])
    assert sum(len(split.test) for split in splits) == len(patients)
    assert all(len(patients.bag(i)) > 0 for i in range(0, len(patients), 50))
    assert len(make_splits(patients.patients, 5, 42)) == 5
