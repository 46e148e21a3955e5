"""Examples of patients on a target's own page, and nowhere else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from report_builders import drawn
from reports import visible
from slide_images import SIDE, write_pyramid

from fedsteph.client.report.examples.examples_section import examples_section
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.site import Site
from fedsteph.common.config.run_config import load_config
from fedsteph.common.report.page import Page, Picture, Text, html
from fedsteph.simulations.run.run_page import simulated_sites


@pytest.fixture(scope="module")
def alpha(reported) -> Site:
    return simulated_sites(reported.run, load_config(reported.run / "config.yaml"))["alpha"]


@pytest.fixture
def placed(alpha, tmp_path) -> Site:
    """alpha with slides that say where their patches lie; in the run's own, all lie on one place."""
    folder = shutil.copytree(alpha.folder, tmp_path / "alpha")
    for path in (folder / "features").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            n = len(file["coords"])
            file["coords"][...] = np.stack([SIDE * (np.arange(n) % 7), SIDE * (np.arange(n) // 7)], axis=1)
            file["coords"].attrs["patch_size_level0"] = SIDE
    return replace(alpha, folder=folder)


def pictures(site: Site, slides: Path | None = None) -> list[Picture]:
    _, *found = examples_section(site, TargetFiles.open(site.state), slides=slides).blocks
    return found


def extremes(site: Site) -> list[str]:
    """IDs of fold 0's patients from the highest to the lowest risk of the panel."""
    evidence = TargetFiles.open(site.state).evidence()
    hazards = evidence.hazards["panel"]
    risk = {
        str(evidence.ids[i]): -sum(np.prod(1 - hazards[i, : j + 1]) for j in range(hazards.shape[1]))
        for i in range(len(evidence))
        if evidence.fold[i] == 0
    }
    return sorted(risk, key=lambda patient: -risk[patient])


def test_three_of_the_highest_and_three_of_the_lowest_risk_have_both_models_maps(placed):
    found, ranked = pictures(placed), extremes(placed)
    expected = [*ranked[:3], *ranked[:-4:-1]]
    assert [picture.title.split(": ")[1].split(", slide")[0] for picture in found] == expected
    assert [picture.title.split(" risk")[0] for picture in found[2:4]] == ["Third-highest", "Lowest"]
    for picture in found:
        shown = [axes.get_title(loc="left") for axes in drawn(picture).axes if axes.images]
        assert shown[:2] == ["local model", "enhanced model"] and "seed 0" in drawn(picture).get_suptitle()
        assert picture.name.startswith("alpha.example-") and "vent" in picture.note


def test_slide_images_give_strips_and_what_cannot_be_used_is_told(placed, tmp_path):
    pytest.importorskip("tiffslide")
    slides = tmp_path / "slides"
    slides.mkdir()
    names = [picture.title.rpartition("slide ")[2] for picture in pictures(placed)]
    write_pyramid(slides / f"{names[0]}.svs")
    whole = write_pyramid(slides / f"{names[1]}.tif").read_bytes()
    (slides / f"{names[1]}.tif").write_bytes(whole[: len(whole) // 2])
    write_pyramid(slides / f"{names[2]}.svs", (2048, 1024)).rename(slides / f"{names[2]}.png")
    strip, cut, thumbnail, *without = pictures(placed, slides)
    assert strip.numbers is not None and "No patches" not in strip.note
    assert "No patches are shown" in cut.note and "No patches are shown" in thumbnail.note
    assert all(
        f"slides holds no image of the slide {name}." in one.note for name, one in zip(names[3:], without, strict=True)
    )
    for picture in (cut, thumbnail, *without):
        assert drawn(picture).axes and str(tmp_path) not in picture.note


def test_slides_without_places_and_other_data_give_one_sentence(alpha, placed):
    (told,) = examples_section(alpha, TargetFiles.open(alpha.state)).blocks
    assert isinstance(told, Text) and "does not say how wide a patch is" in told.text
    (placed.folder / "labels.csv").write_text("patient_id\n")
    (told,) = examples_section(placed, TargetFiles.open(placed.state)).blocks
    assert isinstance(told, Text) and told.text.startswith("They need the site's data as they were")


def test_patients_are_named_on_the_owner_s_page_alone(reported, placed, refused):
    section = examples_section(placed, TargetFiles.open(placed.state))
    own = visible(html(Page("own", "for alpha", (), [section])))
    shown = [*extremes(placed)[:3], *extremes(placed)[-3:]]
    assert all(patient in own for patient in shown)
    assert "Examples" in visible((reported.run / "report" / "index.html").read_text())
    for name in ("alpha", "beta", "coordinator"):
        told = (reported.shared(name) / "index.html").read_text()
        assert "Examples" not in visible(told) and not any(patient in told for patient in shown)
        assert not [*reported.shared(name).rglob("*example*")]
    said = refused("report", reported.run, "--target", "alpha", "--shared", "--slides", placed.folder)
    assert "is for a page that shows patients" in said
    assert "there is no such folder" in refused("report", reported.run, "--slides", placed.folder / "none")
