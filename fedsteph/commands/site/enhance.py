"""``fedsteph enhance``: other sites' vectors merged with a site's own, without a server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption, SiteArgument
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.site.site import Site
    from fedsteph.client.site.workspace import Workspace
    from fedsteph.common.vector.task_vector import TaskVector


def enhance(
    site: SiteArgument,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            help="A source's plain vector file, as FILE or NAME=FILE; without a name, the file's. Repeatable."
        ),
    ] = None,
    same_cancer: Annotated[
        list[str] | None,
        typer.Option(help="A source of this site's cancer, by name. Repeatable; kept vectors' are in the roster."),
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
      fedsteph enhance sites/kirp --vectors other-kirp.safetensors --same-cancer other-kirp
    """
    from fedsteph.client.report.site_page import write_site_page
    from fedsteph.client.sharing.kept_vectors import usable
    from fedsteph.client.site.site import Site
    from fedsteph.client.site.workspace import Workspace
    from fedsteph.client.target.enhance import enhance_alone
    from fedsteph.client.target.train_alone import local_recipe
    from fedsteph.commands.terminal.page_drawing import draw_page
    from fedsteph.commands.terminal.run_tables import show_target
    from fedsteph.common.config.run_config import load_config
    from fedsteph.common.host.lock import exclusive

    opened, loaded = Site.open(site, state=out), load_config(config, settings)
    opened.require_state()
    with exclusive(opened.state, wait=False):
        workspace = Workspace.open(opened, local_recipe(opened, loaded))
        given = _read(workspace, vectors or [])
        # Vectors are kept in the site's own state folder, wherever this merge is written.
        own = usable(replace(workspace, site=Site.open(site)))
        kept = {name: vector for name, vector in own.items() if name not in given}
        with console.progress_bar() as progress:
            merging = progress(f"merging at {opened.name}")
            result = enhance_alone(workspace, given | kept, merging, kept, [*(same_cancer or []), *_kin(opened, kept)])
        if as_json:
            console.show_json(result.to_dict())
        else:
            show_target(opened.name, result)
            console.say(f"Models, the final one and one per fold: {result.models}")
        if report_too:
            draw_page(lambda drawn: write_site_page(opened, progress=drawn))


def _kin(site: Site, kept: Collection[str]) -> list[str]:
    """Those of the kept vectors' sources that have this site's cancer by its roster."""
    member = site.membership() if kept else None
    return [name for name in kept if member is not None and member.is_kin(name)]


def _read(workspace: Workspace, vectors: Sequence[str]) -> dict[str, TaskVector]:
    """The vectors by their sources' names. Raises ConfigError where two files have one name."""
    from fedsteph.common.model.initial_model import pinned_model
    from fedsteph.common.vector.vector_file import load_vector

    recipe, norm = workspace.recipe, workspace.site.file.max_vector_norm
    m0 = pinned_model(recipe.model)
    found: dict[str, TaskVector] = {}
    for text in vectors:
        name, separator, path = text.partition("=")
        name, path = (name, path) if separator else (Path(text).stem, text)
        if name in found:
            raise ConfigError(f"'{name}' is given twice", where="--vectors", remedy="Name them, as in luad=FILE")
        head = False if recipe.sharing.head == "never" else None
        found[name] = load_vector(path, m0, sharing=recipe.sharing, max_norm=norm, head=head)
    return found
