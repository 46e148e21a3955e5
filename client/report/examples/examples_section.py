"""Examples on a target's own page: where both models look at the patients of the highest and the lowest risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedsteph.client.models.heatmap import Caption, Heatmap, draw, most_seen, strip
from fedsteph.client.models.model_file import LoadedModel
from fedsteph.client.report.examples.extreme_patients import Example, extremes
from fedsteph.client.report.target_files import TargetFiles
from fedsteph.client.site.patients import patients_of
from fedsteph.client.site.site import Site
from fedsteph.client.slides.slide_image import IMAGES, image_of, open_slide
from fedsteph.client.slides.thumbnail import THUMBNAILS
from fedsteph.common.errors import FedstephError
from fedsteph.common.host.progress import NamedProgress, unseen
from fedsteph.common.report.page import Block, Picture, Section, Text

_PANEL = 1.85  # inches, so that two maps are readable on a phone
_HOW = (
    "Test patients of fold {fold}, which these models have not seen: the {high} with the highest and the {low} with "
    "the lowest risk under the enhanced model. Of a patient with several slides, the slide with the most attention. "
    "Attention shows where a model looked, not why."
)


def examples_section(
    site: Site, files: TargetFiles, progress: NamedProgress = unseen, slides: Path | None = None
) -> Section:
    """Attention of the local beside the enhanced model on a few patients' slides, for the site alone: it names them.

    Args:
        slides: folder of the slides' images, for a strip of the patches with the most attention, or of thumbnails, to
            lay below the maps.
    """
    return Section("Examples", _blocks(site, files, progress, slides), 3)


def _blocks(site: Site, files: TargetFiles, progress: NamedProgress, slides: Path | None) -> list[Block]:
    fold = files.first_enhanced
    found = None if fold is None else files.enhanced(fold)
    if fold is None or found is None:
        return [Text("Every source was refused in every fold, so there is no enhanced model to look at.")]
    try:
        new = patients_of(site)
    except FedstephError as error:
        return [Text(f"They need the site's data as they were: {error.what}.")]
    of_patient = {patient.id: [new.files[slide] for slide in patient.slides] for patient in new.patients}
    whose = f"; fold {fold}, seed {files.recipe.training.seed}"
    chosen, pictures = extremes(f"{site.name}.example", files.evidence(), fold), []
    told = progress("examples")
    for i, patient in enumerate(chosen, 1):
        paths = of_patient.get(patient.id, [])
        pictures.append(_picture(patient, whose, found[0], paths, slides, site.file.data.patch_size))
        told(i, len(chosen))
    sentences = [picture.instead for picture in pictures if picture.figure is None]
    if len(sentences) == len(pictures):
        return [Text(f"No slide can be shown. {sentences[0] if sentences else 'The fold has no test patient.'}")]
    n_low = len(chosen) // 2
    return [Text(_HOW.format(fold=fold, high=len(chosen) - n_low, low=n_low)), *pictures]


def _picture(
    patient: Example, whose: str, model: LoadedModel, paths: Sequence[Path], slides: Path | None, side: float | None
) -> Picture:
    """The strip, else the map; a sentence if the patient's slide cannot be used or says not where its patches lie."""
    title = f"{patient.place.capitalize()}: {patient.id}"
    if not paths:
        return Picture(patient.name, title, instead="The patient is no longer in the site's table.")
    try:
        found = most_seen(model, paths, side)
    except FedstephError as error:
        return Picture(patient.name, title, instead=_told(error))
    caption = Caption(patient.name, f"{title}, slide {found.slide}", whose, patient.outcome)
    if slides is not None:
        try:
            return _from_image(found, image_of(slides, found.slide, (*IMAGES, *THUMBNAILS)), caption)
        except FedstephError as error:
            caption = replace(caption, note=f"{patient.outcome} No patches are shown. {_told(error)}")
    return draw(found, caption=caption, panel_width=_PANEL)


def _from_image(found: Heatmap, path: Path, caption: Caption) -> Picture:
    if path.suffix.lower() in THUMBNAILS:
        return draw(found, path, caption=caption, panel_width=_PANEL)
    with open_slide(path) as image:
        return strip(found, image, caption)


def _told(error: FedstephError) -> str:
    """An error as a sentence of a page: a file by its name alone."""
    where = "" if error.where is None else f"{Path(error.where).name} "
    return f"{where}{error.what}."
