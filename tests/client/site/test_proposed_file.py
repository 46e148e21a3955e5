"""A site file is proposed for folders as portals and tools leave them, and nothing is guessed that must be known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data_builders import features, save, write_csv, write_h5

from fedsteph.client.data.discovery import usable_contents
from fedsteph.client.site.proposed_file import Given, Proposed, propose
from fedsteph.client.site.site import Site
from fedsteph.common.errors import ConfigError, DataError

PATIENTS = [f"TCGA-AB-{i:04d}" for i in range(12)]


def slides(folder: Path, ending: str = "-01Z-00-DX1", patients: Sequence[str] = PATIENTS) -> None:
    folder.mkdir(parents=True)
    for i, patient in enumerate(patients):
        write_h5(folder / f"{patient}{ending}.h5", features(seed=i))


def never(question: str, choices: Sequence[Any], option: str) -> Any:
    raise AssertionError(f"asked: {question}")


def opened(folder: Path, found: Proposed) -> Site:
    """The site as the written file describes it; its data must be usable."""
    (folder / "site.yaml").write_text(found.text())
    site = Site.open(folder)
    assert len(usable_contents(folder, site.file.data).patients) == len(PATIENTS)
    return site


def test_what_clam_leaves(tmp_path: Path) -> None:
    """Two folders with the same features, patches without any, names with .svs, splits with files beside them."""
    slides(tmp_path / "FEATURES" / "h5_files")
    (tmp_path / "FEATURES" / "pt_files").mkdir()
    (tmp_path / "patches").mkdir()
    for path in (tmp_path / "FEATURES" / "h5_files").iterdir():
        save(tmp_path / "FEATURES" / "pt_files" / f"{path.stem}.pt", torch.rand(5, 4))
        with h5py.File(tmp_path / "patches" / path.name, "w") as file:
            file["coords"] = np.zeros((5, 2))
    rows = [(i, p, f"{p}-01Z-00-DX1.svs", 3 + 5.5 * i, float(i % 2)) for i, p in enumerate(PATIENTS)]
    (tmp_path / "dataset_csv").mkdir()
    header = ("", "case_id", "slide_id", "survival_months", "censorship")
    write_csv(tmp_path / "dataset_csv" / "kirp.csv", [header, *rows])
    splits = tmp_path / "splits" / "kirp_100"
    splits.mkdir(parents=True)
    for k in range(2):
        write_csv(splits / f"splits_{k}.csv", [("", "train", "test"), *((i, p, "") for i, p in enumerate(PATIENTS))])
        (splits / f"splits_{k}_bool.csv").write_text(",train,val,test\nx,True,False,False\n")
    data = opened(tmp_path, propose(tmp_path, Given(), never)).file.data
    assert (data.features, data.labels) == ("FEATURES/h5_files", "dataset_csv/kirp.csv")
    assert (data.splits, data.time_unit, data.match) == ("splits/kirp_100", "months", ("endings",))
    assert (data.columns.patient, data.columns.slide, data.columns.censorship) == ("case_id", "slide_id", "censorship")


def test_a_portal_s_table_without_slides_and_with_two_outcomes(tmp_path: Path) -> None:
    slides(tmp_path / "features_uni_v2", "-01Z-00-DX1.0a1b2c3d-1234-5678-9abc-0123456789ab")
    rows = [
        f"{p}\t1:DECEASED\t{3 + 5 * i}.5\t0:ALIVE\t{3 + 5 * i}.5" for i, p in enumerate([*PATIENTS, "TCGA-ZZ-0000"])
    ]
    names = "PATIENT_ID\tOS_STATUS\tOS_MONTHS\tDSS_STATUS\tDSS_MONTHS"
    (tmp_path / "data_clinical_patient.txt").write_text("\n".join(["#Patient\tx", names, *rows]) + "\n")
    asked: list[str] = []

    def choose(question: str, choices: Sequence[Any], option: str) -> Any:
        asked.append(option)
        return next(choice for choice in choices if choice.time == "DSS_MONTHS")

    found = propose(tmp_path, Given(), choose)
    assert found == propose(tmp_path, Given(time="DSS_MONTHS"), never) and asked == ["--time"]
    columns = opened(tmp_path, found).file.data.columns
    assert (columns.slide, columns.time, columns.event) == (None, "DSS_MONTHS", "DSS_STATUS")


def test_a_unit_that_nothing_states_and_one_of_two_encoders_are_asked_for(tmp_path: Path) -> None:
    for name in ("conch", "uni"):
        slides(tmp_path / name, "")
    rows = [(p, p, 100 + i, "Dead" if i % 2 else "Alive") for i, p in enumerate(PATIENTS)]
    write_csv(tmp_path / "clinical.csv", [("submitter_id", "image", "time", "vital_status"), *rows])
    asked: list[str] = []

    def last(question: str, choices: Sequence[Any], option: str) -> Any:
        asked.append(option)
        return choices[-1]

    data = opened(tmp_path, propose(tmp_path, Given(), last)).file.data
    assert asked == ["--features", "--time-unit"]
    assert (data.features, data.time_unit, data.columns.slide) == ("uni", "years", None)
    with pytest.raises(ConfigError, match="is there already"):
        propose(tmp_path, Given(), last)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        propose(tmp_path / "absent", Given(), never)
    with pytest.raises(DataError, match="no folder of feature files"):
        propose(tmp_path, Given(), never)
    slides(tmp_path / "h5")
    (tmp_path / "clinical.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"it is none of clinical\.xlsx"):
        propose(tmp_path, Given(), never)
    write_csv(tmp_path / "genes.csv", [("gene", "value"), ("TP53", "1")])
    with pytest.raises(DataError, match="has no columns for the patients' IDs that are known by name; it has 'gene'"):
        propose(tmp_path, Given(labels=tmp_path / "genes.csv"), never)


def test_a_project_that_all_rows_share_names_the_cancer(tmp_path: Path) -> None:
    slides(tmp_path / "h5", "")
    header = ("patient_id", "pathology_id", "project", "t", "e")
    for projects, cancer in ((["TCGA-KIRP"], "kirp"), (["kirp", "kirc"], None), (["renal cell"], None), ([""], None)):
        rows = [(p, p, projects[i % len(projects)], 100 + i, i % 2) for i, p in enumerate(PATIENTS)]
        write_csv(tmp_path / "labels.csv", [header, *rows])
        found = propose(tmp_path, Given(time_unit="days"), never)
        assert found.cancer == cancer == opened(tmp_path, found).file.cancer
        (tmp_path / "site.yaml").unlink()
