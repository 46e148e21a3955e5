"""``fedsteph keys``: make, show and rotate a site's keys. Secret halves are made here and stay here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import ConfigError, KeyFileError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.common.trust.keys import Identity

keys = typer.Typer(no_args_is_help=True, help="Make, show and rotate this site's keys.")

CancerOption = Annotated[str | None, typer.Option(help="The cancer of the site's patients, e.g. brca.")]
FolderArgument = Annotated[Path, typer.Argument(help="The folder with the site's .sign.key and .seal.key.")]


@keys.command("new")
def new(
    site: Annotated[str, typer.Argument(help="The site's name in the federation.")],
    out: Annotated[Path, typer.Option(help="Folder for the keys; there is no default place.")],
    cancer: CancerOption = None,
) -> None:
    """Make a site's keys: to sign (Ed25519) and to receive (HPKE: ML-KEM-768 with X25519).

    \b
    Examples:
      fedsteph keys new kirp --out keys --cancer kirp
    """
    from fedsteph.common.trust.keys import Identity

    _require_name(site)
    _write(out, site, Identity.generate(), None, cancer)


@keys.command("show")
def show(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show the public halves and their fingerprint. Secret halves are never shown.

    \b
    Examples:
      fedsteph keys show keys
    """
    site, identity = _only_pair(folder)
    public = identity.public
    shown = {"site": site, "sign": public.sign_text, "seal": public.seal_text, "fingerprint": public.fingerprint}
    if as_json:
        return console.show_json(shown)
    for name in ("site", "fingerprint", "sign", "seal"):
        console.say(f"{name:13}{shown[name]}")


@keys.command("rotate")
def rotate(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option(help="Folder for the new keys; the old ones stay.")],
    cancer: CancerOption = None,
) -> None:
    """Make new keys, announced by the old ones, so that the roster can tell them from a stranger's.

    \b
    Examples:
      fedsteph keys rotate keys --out keys-2027

    Nothing changes until every site pins the new roster. Then point site.yaml at the new keys, and delete the
    old ones.
    """
    from fedsteph.common.trust.keys import Identity

    site, before = _only_pair(folder)
    _write(out, site, Identity.generate(), before, cancer)


def _write(out: Path, site: str, identity: Identity, before: Identity | None, cancer: str | None) -> None:
    from fedsteph.common.trust.announcement import Announcement, write_announcement
    from fedsteph.common.trust.key_file import write_identity

    try:
        announcement = Announcement.of(site, identity, before, cancer)
    except ValueError as error:
        raise ConfigError(str(error), where="--cancer", remedy="Give a short name in lower case, or none") from error
    sign, seal = write_identity(out, site, identity)
    public = out / f"{site}.public.yaml"
    write_announcement(public, announcement)
    console.say(f"secret, stay here:  {sign}, {seal}")
    console.say(f"public, give away:  {public}")
    console.say(f"fingerprint:        {identity.public.fingerprint}")


def _only_pair(folder: Path) -> tuple[str, Identity]:
    from fedsteph.common.trust.key_file import read_identity

    found = sorted(folder.glob("*.sign.key"))
    if len(found) != 1:
        what = "holds no .sign.key" if not found else f"holds the keys of {len(found)} sites"
        raise KeyFileError(what, where=folder, remedy="Give the folder that 'fedsteph keys new' wrote for one site")
    site = found[0].name.removesuffix(".sign.key")
    _require_name(site)
    return site, read_identity(found[0], folder / f"{site}.seal.key")


def _require_name(site: str) -> None:
    from fedsteph.common.config.run_config import SITE_NAME

    if SITE_NAME.fullmatch(site) is None:
        raise ConfigError(f"'{site}' cannot be a site's name", remedy="Lower-case letters, digits, - and _, at most 32")
