"""``fedsteph enhance``: other sites' vectors merged with a site's own, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption, SiteArgument
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.site.site import Site
    from fedsteph.common.config.run_config import Config
    from fedsteph.common.vector.task_vector import TaskVector


def enhance(
    site: SiteArgument,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            help="A source's plain vector file, as FILE or NAME=FILE; without a name, the file's. Repeatable."
        ),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for models and page; default: SITE's state folder.")] = None,
    report_too: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the site's own page, as 'fedsteph report' does.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Merge other sites' task vectors with this site's own, without a server; what is missing is trained first.

    It takes the vectors that this site keeps ('fedsteph vectors list') and the files that are given, screens them,
    judges all methods on the same folds as a run does, and leaves the same results, page and models. The same vectors
    give the same numbers. The configuration is the one that the vectors were trained with.

    \b
    Examples:
      fedsteph enhance sites/kirp
      fedsteph enhance sites/kirp --vectors luad.safetensors --vectors blca.safetensors
      fedsteph enhance sites/kirp --vectors luad=mail/v1.safetensors --config federation.yaml --out merged
    """
    from fedsteph.client.report.site_page import write_site_page
    from fedsteph.client.site.site import Site
    from fedsteph.client.target.enhance import RESULT_FILE
    from fedsteph.client.target.enhance import enhance as enhance_site
    from fedsteph.client.target.target_result import TargetResult
    from fedsteph.commands.terminal.page_drawing import draw_page
    from fedsteph.commands.terminal.run_tables import show_target
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.host.lock import exclusive

    opened, loaded = Site.open(site, state=out), load_config(config, settings)
    given = _read(opened, loaded, vectors or [])
    with exclusive(opened.state, wait=False):
        kept = {name: vector for name, vector in _kept(opened, loaded).items() if name not in given}
        with console.progress_bar() as progress:
            found = enhance_site(opened, given | kept, loaded, progress(f"merging at {opened.name}"), kept)
        if as_json:
            console.show_json(found)
        else:
            show_target(opened.name, TargetResult.read(opened.state / RESULT_FILE))
            console.say(f"Deployed models, one per fold: {found['models']}")
        if report_too:
            draw_page(lambda drawn: write_site_page(opened, progress=drawn))


def _kept(site: Site, config: Config) -> dict[str, TaskVector]:
    """The vectors that the site keeps, as far as they are of this configuration."""
    from fedsteph.client.sharing.kept_vectors import usable
    from fedsteph.client.site.workspace import Workspace
    from fedsteph.client.target.train_alone import local_recipe

    return usable(Workspace.open(site, local_recipe(site, config)))


def _read(site: Site, config: Config, vectors: Sequence[str]) -> dict[str, TaskVector]:
    """The vectors by their sources' names. Raises ConfigError where two files have one name."""
    from fedsteph.client.target.train_alone import local_recipe
    from fedsteph.common.model.abmil import pinned_model
    from fedsteph.common.vector.vector_file import load_vector

    recipe = local_recipe(site, config)
    m0 = pinned_model(recipe.model)
    found: dict[str, TaskVector] = {}
    for text in vectors:
        name, separator, path = text.partition("=")
        name, path = (name, path) if separator else (Path(text).stem, text)
        if name in found:
            raise ConfigError(f"'{name}' is given twice", where="--vectors", remedy="Name them, as in luad=FILE")
        norm = site.file.max_vector_norm
        found[name] = load_vector(path, m0, sharing=recipe.sharing, max_norm=norm)
    return found
