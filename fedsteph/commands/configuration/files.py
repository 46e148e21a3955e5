"""The YAML files that a user writes, and the keys of each; what they are read into is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fedsteph.commands.configuration.key_list import Key, keys_of


@dataclass(frozen=True)
class File:
    """A YAML file: a heading, what it is for, in sentences, and all of its keys."""

    title: str
    about: str
    keys: tuple[Key, ...]


def federation_file() -> File:
    """The configuration of a federation's run."""
    from fedsteph.common.config.presets import DEFAULT_PRESET, PRESETS
    from fedsteph.common.config.run_config import Config

    preset, *others = sorted(keys_of(Config, presets=PRESETS), key=lambda key: key.name != "preset")
    return File(
        "The configuration of a federation's run",
        "What all sites train, who takes part, and how long a run waits: the same for all sites. For --config of "
        "simulate, train, recipe and privacy audit; in a deployment the server's config.yaml.",
        (replace(preset, default=DEFAULT_PRESET), *others),
    )


def site_file() -> File:
    """A site's own file."""
    from fedsteph.client.site.site_file import SiteFile

    return File(
        "A site's site.yaml",
        "Where the site's data are, and what may leave it. It stays at the site, which alone decides what stands in "
        "it. Every key may be left out; without federation and policy the site takes part in no deployment.",
        keys_of(SiteFile),
    )


def server_file() -> File:
    """The coordinator's file."""
    from fedsteph.server.deployment.server_file import ServerFile

    return File(
        "The coordinator's server.yaml",
        "Where the server's keys, certificates and results are; for doctor server, status, health and run. Paths are "
        "relative to the file.",
        keys_of(ServerFile),
    )


def study_file() -> File:
    """A benchmark's file."""
    from fedsteph.simulations.study.study_file import StudyFile, Variant

    about = (
        "what all rows train: preset, model, training, sharing, steph, comparators and evaluation as in the "
        "configuration of a federation, but for model.width, model.m0_sha256 and how features were made "
        "(model.encoder, .magnification, .patch_size), which the sites' files tell, for training.seed (here "
        "seeds) and for comparators.methods (here methods)"
    )
    recipe = Key("recipe", "section", {}, about)
    about = "keys of the study's recipe that are other ones for this row; not evaluation, which all rows share"
    plain = [replace(key, values="section or null", below=()) if key.below else key for key in keys_of(Variant)]
    own = [replace(key, path=f"variants.NAME.{key.path}") for key in (*plain, replace(recipe, meaning=about))]
    about = "a row of its own, under the name that stands here: a method under another recipe, or with fewer sources"
    row = Key("variants.NAME", "section", {}, about, below=tuple(own))
    return File(
        "A study of fedsteph benchmark",
        "Which methods are compared, on which sites, and with which seeds. configs/ has some to start from.",
        (*keys_of(StudyFile), recipe, Key("variants", "section", None, "further rows of the results", below=(row,))),
    )


FILES: tuple[Callable[[], File], ...] = (federation_file, site_file, server_file, study_file)


def federation_to_print() -> File:
    """As :func:`federation_file`, for whoever has the complete YAML in hand."""
    file = federation_file()
    return replace(
        file,
        about=f"{file.about} Every key of the preset stands here, so that another preset: in this file changes "
        "nothing; print the file again with --preset.",
    )


def study_to_print(preset: str | None) -> File:
    """As :func:`study_file`; its recipe names a preset and nothing more, or no row could have another preset."""
    file, (named, *_) = study_file(), federation_file().keys
    below = (replace(named, path="recipe.preset", default=preset),)
    return replace(
        file,
        keys=tuple(
            replace(key, default={"preset": preset}, below=below) if key.path == "recipe" else key for key in file.keys
        ),
    )
