"""What a site keeps: found again for the same request over the same data, and for no other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pandas as pd
import pytest
from client_builders import Spy, equal, make_recipe, make_workspace, state_of
from sites import make_site

import fedsteph.client.site.workspace
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.errors import DataError, DeviceError, EncoderError, ModelFileError, SplitError, WidthError


def reopened(workspace: Workspace, *settings: str) -> Workspace:
    return Workspace.open(workspace.site, make_recipe(*settings))


def test_the_parts_are_those_of_the_split_files(tmp_path):
    workspace = make_workspace(tmp_path, patients=12)
    for fold in range(2):
        table = pd.read_csv(workspace.site.folder / f"splits_{fold}.csv")
        for part, cohort in (("train", workspace.train_part(fold)), ("test", workspace.test_part(fold))):
            assert [patient.id for patient in cohort.patients] == table[part].dropna().tolist()


def test_the_same_request_finds_its_folder_and_its_model(monkeypatch, tmp_path):
    workspace = make_workspace(tmp_path, patients=12)
    spy, seen = Spy(monkeypatch, fedsteph.client.models.local_file, "train_local"), []
    model = workspace.train_local(1, lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    again = reopened(workspace)
    assert (again.folder, again.base_folder) == (workspace.folder, workspace.base_folder)
    assert equal(state_of(again.train_local(1)), state_of(model)) and len(spy.calls) == 1
    assert [p.id for p in spy.calls[0].args[0].patients] == list(workspace.splits[1].train)
    with pytest.raises(ModelFileError, match="was not trained yet"):
        workspace.local_model(0)
    workspace.train_local(0)
    assert len(spy.calls) == 2
    assert sorted(path.parent.name for path in workspace.base_folder.rglob("local.safetensors")) == ["fold_0", "fold_1"]
    assert not list(workspace.site.state.rglob("*.checkpoint"))


def relabel(folder: Path) -> None:
    table = pd.read_csv(folder / "labels.csv")
    table.loc[table["patient_id"] == "P001", "t"] = 77.0
    table.to_csv(folder / "labels.csv", index=False)


def resplit(folder: Path) -> None:
    (folder / "splits_0.csv").rename(folder / "tmp")
    (folder / "splits_1.csv").rename(folder / "splits_0.csv")
    (folder / "tmp").rename(folder / "splits_1.csv")


def retouch(folder: Path) -> None:
    path = folder / "features/P001-DX1.h5"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("change", [relabel, resplit, retouch])
def test_changed_data_never_meets_old_work(tmp_path, change: Callable[[Path], None]):
    workspace = make_workspace(tmp_path, patients=12)
    change(workspace.site.folder)
    assert reopened(workspace).folder != workspace.folder and reopened(workspace).base_folder != workspace.base_folder


@pytest.mark.parametrize("setting", ["training.seed=1", "training.lr=0.01", "training.loss=cox", "model.m0_seed=1"])
def test_another_recipe_never_meets_old_work(tmp_path, setting):
    workspace = make_workspace(tmp_path, patients=12)
    other = reopened(workspace, setting)
    assert other.folder != workspace.folder and other.fold_folder(0) != workspace.fold_folder(0)


@pytest.mark.parametrize(
    "setting", ["steph.K=2", "steph.lr=0.01", "comparators.methods=[ties]", "evaluation.bootstrap=30"]
)
def test_recipes_that_differ_in_later_steps_share_a_site_s_own_models_and_nothing_else(monkeypatch, tmp_path, setting):
    workspace = make_workspace(tmp_path, patients=12)
    model, spy = workspace.train_local(0), Spy(monkeypatch, fedsteph.client.models.local_file, "train_local")
    other = reopened(workspace, setting)
    assert other.folder != workspace.folder and other.fold_folder(0) == workspace.fold_folder(0)
    assert equal(state_of(other.local_model(0)), state_of(model)) and spy.calls == []


def test_a_moved_site_finds_its_work_again(tmp_path):
    workspace = make_workspace(tmp_path, patients=12)
    workspace.train_local(0)
    moved = shutil.copytree(workspace.site.folder, tmp_path / "moved" / "site")
    other = Workspace.open(Site.open(moved, device="cpu"), workspace.recipe)
    assert (other.folder.name, other.base_folder.name) == (workspace.folder.name, workspace.base_folder.name)
    assert (other.fold_folder(0) / "local.safetensors").is_file()


def test_another_width_is_refused(tmp_path):
    workspace = make_workspace(tmp_path, patients=12)
    with pytest.raises(WidthError, match="6 wide, the federation's 7"):
        Workspace.open(workspace.site, make_recipe(width=7))


@pytest.mark.parametrize(
    ("site", "federation", "fits"),
    [("uni", "uni", True), ("uni", "conch", False), (None, "uni", True), ("uni", None, True)],
)
def test_another_encoder_is_refused_where_both_are_known(tmp_path, site, federation, fits):
    folder = make_site(tmp_path / "site", patients=4, encoder=site or "unnamed")
    if site is None:
        for path in (folder / "features").iterdir():
            with h5py.File(path, "r+") as file:
                del file["features"].attrs["encoder"]
    recipe = make_recipe(f"model.encoder={federation or 'null'}")
    if fits:
        assert Workspace.open(Site.open(folder, device="cpu"), recipe).cohort.extraction.encoder == site
    else:
        with pytest.raises(EncoderError, match="of uni at 20x, patches of 256 pixels, the federation's of conch"):
            Workspace.open(Site.open(folder, device="cpu"), recipe)


def test_an_absent_device_is_refused(tmp_path):
    site = Site.open(make_site(tmp_path / "site", patients=12), device="cuda:9")
    with pytest.raises(DeviceError):
        Workspace.open(site, make_recipe())


def test_fewer_split_files_than_folds(tmp_path):
    with pytest.raises(SplitError, match="2 split files, the federation asks for 3"):
        make_workspace(tmp_path, "evaluation.folds=3", patients=12)


@pytest.mark.parametrize(("folds", "made"), [(1, 1), (5, 5), (7, 7)])
def test_splits_are_made_where_there_are_no_files(tmp_path, folds, made):
    workspace = make_workspace(tmp_path, f"evaluation.folds={folds}", patients=20, folds=0)
    assert len(workspace.splits) == made
    everybody = {patient.id for patient in workspace.cohort.patients}
    for split in workspace.splits:
        assert {*split.train} | {*split.test} == everybody and not {*split.train} & {*split.test}
        assert len(split.test) <= 4
    other = reopened(workspace, f"evaluation.folds={folds}", "evaluation.split_seed=1")
    assert other.splits != workspace.splits


def test_a_fold_without_anybody_to_train_on_is_refused(tmp_path):
    """Here nobody of the training part has a slide that is not excluded."""
    folder = make_site(tmp_path / "site", patients=4)
    train = pd.read_csv(folder / "splits_0.csv")["train"].dropna()
    slides = pd.read_csv(folder / "labels.csv").set_index("patient_id").loc[train, "pathology_id"]
    (folder / "site.yaml").write_text(f"data: {{exclude: [{', '.join(slides)}]}}\n")
    with pytest.raises(DataError, match="has no patient in train"):
        Workspace.open(Site.open(folder, device="cpu"), make_recipe())


def test_a_validation_part_belongs_to_neither_side(tmp_path):
    site = make_site(tmp_path / "site", patients=9, folds=1)
    (site / "splits_0.csv").write_text(
        "train,test,val\nP000,P003,P006\nP001,P004,P007\nP002,P005,P008\n", encoding="utf-8"
    )
    opened = Workspace.open(Site.open(site, state=tmp_path / "state"), make_recipe("evaluation.folds=1"))
    parts = [[p.id for p in part.patients] for part in (opened.train_part(0), opened.test_part(0))]
    assert parts == [["P000", "P001", "P002"], ["P003", "P004", "P005"]]


def test_a_site_s_number_of_threads_holds_wherever_it_computes(tmp_path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(fedsteph.client.site.workspace.torch, "set_num_threads", asked.append)
    site = make_site(tmp_path / "site", folds=2)
    for text, expected in (("threads: 3\n", [3]), ("", [3])):
        (site / "site.yaml").write_text(text, encoding="utf-8")
        Workspace.open(Site.open(site, state=tmp_path / "state"), make_recipe())
        assert asked == expected
