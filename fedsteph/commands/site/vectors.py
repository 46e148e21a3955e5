"""``fedsteph vectors``: send the site's vector as a file, import other sites', and look after those that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.kept_tables import HEADER, lines, plain, row, until
from fedsteph.commands.terminal.options import ConfigOption, JsonOption, SetOption, SiteArgument
from fedsteph.common.errors import EXIT_DONE, EXIT_INPUT, VectorError, VectorFileError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.client.sharing.kept_record import KeptVector
    from fedsteph.client.site.site import Site

vectors = typer.Typer(no_args_is_help=True, help="Send this site's vector as a file, and keep other sites'.")

ToOption = Annotated[str, typer.Option(help="The site that receives it: its name in the roster, or its .public.yaml.")]
OutOption = Annotated[Path, typer.Option(help="The file to write; send it by any channel.")]
NamesArgument = Annotated[list[str], typer.Argument(help="Names of the senders.")]


@vectors.command("export")
def export(
    site: SiteArgument, to: ToOption, out: OutOption, config: ConfigOption = None, settings: SetOption = None
) -> None:
    """Seal this site's vector for one site into a file, by the same policy, attack gate, ledger and audit as in a run.

    The recipe must be the federation's (--config, --set). What is shared is trained first if it is not there yet.

    \b
    Examples:
      fedsteph vectors export sites/luad --to kirp --config federation.yaml --out luad-for-kirp.sealed
      fedsteph vectors export sites/luad --to kirp.public.yaml --out luad-for-kirp.sealed
    """
    from fedsteph.client.sharing.mailed_vector import recipient_of
    from fedsteph.client.sharing.outgoing import sealed_file
    from fedsteph.client.sharing.shared_model import train_shared
    from fedsteph.client.site.workspace import Workspace
    from fedsteph.client.target.train_alone import local_recipe
    from fedsteph.common.config.digest import digest
    from fedsteph.common.config.run_config import load_config

    with _working(site) as opened:
        member = opened.membership()
        recipient = recipient_of(to, member)
        workspace = Workspace.open(opened, local_recipe(opened, load_config(config, settings)))
        with console.progress_bar() as progress:
            training = partial(train_shared, progress=progress(f"training at {opened.name}"))
            sealed = sealed_file(workspace, member, recipient, training)
        _write(out, sealed)
    console.say(f"sealed for {recipient}: {out} ({len(sealed):,} bytes); recipe {digest(workspace.recipe)}")


@vectors.command("recall")
def recall(site: SiteArgument, to: ToOption, out: OutOption) -> None:
    """Write a sealed file that has one site remove every vector of this site that it keeps.

    It takes effect when that site imports it ('fedsteph vectors import'); that site's software obeys, no mathematics.

    \b
    Examples:
      fedsteph vectors recall sites/luad --to kirp --out luad-recall.sealed
    """
    from fedsteph.client.sharing import mailed_vector

    with _working(site) as opened:
        member = opened.membership()
        recipient = mailed_vector.recipient_of(to, member)
        _write(out, mailed_vector.recall(opened, member, recipient))
    console.say(f"recall for {recipient}: {out}")


@vectors.command("import")
def import_(
    site: SiteArgument,
    files: Annotated[list[Path], typer.Argument(help="Files of 'fedsteph vectors export' or 'recall'.")],
    config: ConfigOption = None,
    settings: SetOption = None,
) -> int:
    """Check files that came from other sites, and keep their vectors; a recall removes its sender's.

    \b
    Examples:
      fedsteph vectors import sites/kirp luad-for-kirp.sealed blca-for-kirp.sealed --config federation.yaml

    \b
    Exit codes:
      0 all are kept
      1 your input, or a file was refused: nothing of that file is kept
    """
    from fedsteph.client.sharing import mailed_vector
    from fedsteph.client.target.train_alone import local_recipe
    from fedsteph.common.config.run_config import load_config

    code = EXIT_DONE
    with _working(site) as opened:
        member, recipe = opened.membership(), local_recipe(opened, load_config(config, settings))
        for path in sorted(files, key=mailed_vector.sent_order):
            try:
                found = mailed_vector.import_file(opened, member, recipe, path)
            except VectorError as error:
                console.tell(f"error: {error.sentence}", "red")
                code = EXIT_INPUT
                continue
            if found.record is None:
                console.say(f"{path}: a recall by {found.sender}; vectors removed: {found.removed}")
            else:
                console.say(
                    f"{path}: kept, the vector of {found.sender} until {until(found.record) or 'it is recalled'}"
                )
    return code


@vectors.command("list")
def list_kept(site: SiteArgument, as_json: JsonOption = False) -> int:
    """List the kept vectors of other sites; those whose time is over, or whose keys were revoked, are removed first.

    \b
    Examples:
      fedsteph vectors list sites/kirp
      fedsteph vectors list sites/kirp --json | jq '.[].sender'
    """
    found, code = _kept(site)
    if as_json:
        console.show_json([plain(one) for one in found])
        return code
    if not found:
        console.tell("no vector is kept")
        return code
    console.show_table(HEADER, [row(one) for one in found])
    return code


@vectors.command("show")
def show(site: SiteArgument, names: NamesArgument, as_json: JsonOption = False) -> int:
    """Show all that is known of the kept vectors of some senders.

    \b
    Examples:
      fedsteph vectors show sites/kirp luad
    """
    found, code = _kept(site)
    chosen = [one for one in found if one.sender in names]
    _require_found(names, {one.sender for one in chosen}, site)
    if as_json:
        console.show_json([plain(one) for one in chosen])
        return code
    for one in chosen:
        for line in [*lines(one), ""]:
            console.say(line)
    return code


@vectors.command("remove")
def remove(site: SiteArgument, names: NamesArgument) -> None:
    """Remove the kept vectors of some senders.

    \b
    Examples:
      fedsteph vectors remove sites/kirp luad blca
    """
    from fedsteph.client.sharing import kept_vectors

    with _telling(site) as opened:
        removed = {name: kept_vectors.remove(opened, name, "removed by this site") for name in dict.fromkeys(names)}
    _require_found(names, {name for name, count in removed.items() if count}, site)


@contextmanager
def _telling(site: Path) -> Iterator[Site]:
    """The site, whose log and this terminal are told of what is removed."""
    import logging

    from rich.logging import RichHandler

    from fedsteph.client.site.site import Site
    from fedsteph.client.site.site_log import site_log, told_of_work

    opened = Site.open(site)
    opened.require_state()
    said = logging.Logger("fedsteph vectors")
    shown = RichHandler(console=console.err, show_time=False, show_path=False)
    said.handlers = [*site_log(opened).handlers, shown]
    with told_of_work(said):
        yield opened


@contextmanager
def _working(site: Path) -> Iterator[Site]:
    """As :func:`_telling`, and nothing else works in the site's state meanwhile."""
    from fedsteph.common.host.lock import exclusive

    with _telling(site) as opened, exclusive(opened.state, wait=False):
        yield opened


def _kept(site: Path) -> tuple[list[KeptVector], int]:
    """The kept vectors, and the exit code: damaged files are told of on stderr."""
    from fedsteph.client.sharing.kept_vectors import kept

    with _telling(site) as opened:
        found, damaged = kept(opened, opened.membership().roster)
    for error in damaged:
        console.tell(f"error: {error.sentence}", "red")
    return found, EXIT_INPUT if damaged else EXIT_DONE


def _write(out: Path, sealed: bytes) -> None:
    from fedsteph.common.host import atomic

    atomic.write_bytes(out, sealed)


def _require_found(names: list[str], found: set[str], site: Path) -> None:
    if missing := sorted({*names} - found):
        what = f"no vector of {', '.join(missing)} is kept"
        raise VectorFileError(what, where=site, remedy="'fedsteph vectors list' shows whose are")
