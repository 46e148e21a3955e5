"""Finds patients and their slides as a site file says, for all that is done with a trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedsteph.client.data.settings import DataSettings
from fedsteph.client.models.new_patients import NewPatients, every_file, in_table
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_file import SITE_FILE, read_site_file
from fedsteph.common.errors import DataError


def patients_of(
    site: Site | Path | str | None, features: Path | str | None = None, labels: Path | str | None = None
) -> NewPatients:
    """The patients of a site, of a table, or of a folder of feature files; arguments as of :func:`fedsteph.predict`.

    Raises:
        ConfigError: the site or its site file cannot be used.
        DataError: it is not said whose patients, or said twice; or the data has errors.
    """
    if features is not None and _is_site(Path(features)):
        if site is not None:
            remedy = "Give one of them, or the folder of feature files inside"
            raise DataError("is a site folder, and another site is given", where=Path(features), remedy=remedy)
        site, features = features, None
    if site is not None:
        return _of_site(site, features, labels)
    if features is None:
        remedy = "Give a site folder (--site) or a folder of feature files (--features)"
        raise DataError("whose patients to predict is not said", where="site or features", remedy=remedy)
    if labels is None:
        return every_file(Path(features))
    settings = replace(DataSettings(), features=str(features), labels=str(labels))
    return in_table(Path(), settings, Path(labels))


def slides_with(site: Site | Path | str, slide: str) -> tuple[Path, tuple[Path, ...]]:
    """The feature file of a site's slide, and those of the same patient's other slides.

    Raises:
        ConfigError: as :func:`patients_of`.
        DataError: the site has no such slide, or its data has errors.
    """
    found = patients_of(site)
    for patient in found.patients:
        if slide in patient.slides:
            return found.files[slide], tuple(found.files[other] for other in patient.slides if other != slide)
    where = site.folder if isinstance(site, Site) else site
    remedy = "Give a slide's name as in the site's table, or the path of a feature file"
    raise DataError(f"has no slide '{slide}'", where=where, remedy=remedy)


def _is_site(folder: Path) -> bool:
    return (folder / SITE_FILE).exists() or ((folder / "labels.csv").exists() and (folder / "features").is_dir())


def _of_site(site: Site | Path | str, features: Path | str | None, labels: Path | str | None) -> NewPatients:
    """The patients of a site, from its own features and table, or from others that are read as its own."""
    if isinstance(site, Site):
        folder, settings, said_in = site.folder, site.file.data, site.folder / SITE_FILE
    else:
        folder, file = read_site_file(Path(site))
        settings, said_in = file.data, Path(site) if Path(site).is_file() else folder / SITE_FILE
    if features is not None:
        settings = replace(settings, features=str(Path(features).absolute()))
    if labels is not None:
        # Another table need not have the columns of clinical values; predict takes them from a table of their own.
        settings = replace(settings, labels=str(Path(labels).absolute()), clinical={})
    found = in_table(folder, settings, folder)
    return replace(found, inputs=(*found.inputs, said_in))
