"""``fedsteph prune``: old runs, logs and work go, and what is still needed stays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import ConfigError
from fedsteph.common.host import console


def prune(
    folder: Annotated[Path, typer.Argument(help="A coordinator's folder (server.yaml), or a site's (site.yaml).")],
    older_than: Annotated[str, typer.Option(help="Age of what goes, in days or weeks: 90d, 12w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what nobody has used for long: a coordinator's old runs and logs, a site's old logs and work.

    A run under way stays, and the last run of every configuration. At a site, deployed models, ledger, audit log, kept
    vectors and numbers are not touched, and no model that could not be made again. The SuperLink's database is
    compacted, if the SuperLink is stopped.

    \b
    Examples:
      fedsteph prune server --older-than 90d --dry-run
      fedsteph prune /opt/fedsteph/kirp --older-than 26w --json
    """
    from fedsteph.client.site.site_file import SITE_FILE
    from fedsteph.common.host.pruned import read_age
    from fedsteph.server.deployment.server_file import SERVER_FILE, ServerFile

    age = read_age(older_than)
    if folder.name == SERVER_FILE or (folder / SERVER_FILE).is_file():
        from fedsteph.server.deployment.pruning import prune_server

        found = prune_server(ServerFile.open(folder), age, dry_run=dry_run)
    elif folder.is_file() or (folder / SITE_FILE).is_file():
        from fedsteph.client.site.site import Site
        from fedsteph.client.upkeep.site_pruning import prune_site

        found = prune_site(Site.open(folder), age, dry_run=dry_run)
    else:
        remedy = f"Give a folder with {SERVER_FILE} or {SITE_FILE}, or one of these files"
        raise ConfigError("is neither a coordinator's folder nor a site's", where=folder, remedy=remedy)
    if as_json:
        gone = [{"path": str(one.path), "what": one.what, "bytes": one.size} for one in found.gone]
        kept = [{"path": str(path), "why": why} for path, why in found.kept.items()]
        return console.show_json({"dry_run": dry_run, "freed_bytes": found.freed, "gone": gone, "kept": kept})
    for one in found.gone:
        console.say(f"  {one.path}: {one.what}, {one.size:,} bytes")
    for path, why in found.kept.items():
        console.say(f"  {path}: stays, {why}")
    console.say(f"{'would free' if dry_run else 'freed'} {found.freed:,} bytes")
