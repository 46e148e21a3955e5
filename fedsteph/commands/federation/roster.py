"""``fedsteph roster``: who takes part, with which public keys; and the digest that every site pins."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import ConfigError, RosterError
from fedsteph.common.host import console

if TYPE_CHECKING:
    from fedsteph.common.trust.roster import Roster

roster = typer.Typer(no_args_is_help=True, help="Keep the roster: the public keys that all sites pin.")

RosterArgument = Annotated[Path, typer.Argument(help="The roster's YAML file.")]


@roster.command("add")
def add(
    file: RosterArgument,
    public: Annotated[Path, typer.Argument(help="The site's .public.yaml.")],
    cancer: Annotated[str | None, typer.Option(help="The site's cancer, e.g. kirp; default: as announced.")] = None,
    contact: Annotated[str | None, typer.Option(help="Whom to telephone: a role, not a person.")] = None,
    federation: Annotated[str | None, typer.Option(help="The federation's name; makes a new roster.")] = None,
) -> None:
    """Add a site's public keys; keys that the old ones announced take their place.

    \b
    Examples:
      fedsteph roster add roster.yaml kirp.public.yaml --cancer kirp --contact 'pathology IT' --federation kidney
      fedsteph roster add roster.yaml kirp.public.yaml           after 'fedsteph keys rotate'
    """
    from fedsteph.common.trust.announcement import read_announcement
    from fedsteph.common.trust.roster import write_roster

    announcement = read_announcement(public)
    changed = announcement.enter(_existing_or_new(file, federation), cancer=cancer, contact=contact, today=_today())
    write_roster(file, changed)
    console.tell(f"compare with {announcement.site} by telephone: {announcement.fingerprint}")
    console.say(changed.digest)


@roster.command("list")
def list_sites(file: RosterArgument, as_json: JsonOption = False) -> None:
    """List sites, fingerprints, and revoked keys.

    \b
    Examples:
      fedsteph roster list roster.yaml
    """
    from rich.markup import escape

    from fedsteph.common.trust.roster import read_roster

    found = read_roster(file)
    if as_json:
        sites = [
            {key: getattr(one, key) for key in ("site", "cancer", "contact", "fingerprint")} for one in found.sites
        ]
        revoked = [{key: getattr(one, key) for key in ("site", "fingerprint", "date")} for one in found.revoked]
        shown = {"federation": found.federation, "digest": found.digest, "sites": sites, "revoked": revoked}
        return console.show_json(shown)
    # The words are other people's: not markup.
    rows = [[e.site, e.cancer or "not stated", escape(e.contact), _grouped(e.fingerprint)] for e in found.sites]
    console.show_table(["site", "cancer", "contact", "fingerprint"], rows, f"federation {found.federation}")
    for gone in found.revoked:
        console.say(f"revoked {gone.date}: {gone.site}, {gone.fingerprint} ({gone.reason})")


@roster.command("digest")
def digest(file: RosterArgument) -> None:
    """Print the digest that every site pins in its site.yaml, once all have compared it by telephone.

    \b
    Examples:
      fedsteph roster digest roster.yaml
    """
    from fedsteph.common.trust.roster import read_roster

    console.say(read_roster(file).digest)


@roster.command("verify")
def verify(
    file: RosterArgument, pin: Annotated[str | None, typer.Option(help="The digest that it must have.")] = None
) -> None:
    """Check that every fingerprint fits its keys, and that the digest is the expected one. Exit code 1 if not.

    \b
    Examples:
      fedsteph roster verify roster.yaml --pin 1f0c...
    """
    from fedsteph.common.trust.roster import read_roster

    found = read_roster(file, pin)
    said = f"{len(found.sites)} sites, {len(found.revoked)} revoked keys"
    console.say(f"{file}: holds together; {said}; digest {found.digest}")


@roster.command("revoke")
def revoke(
    file: RosterArgument,
    site: Annotated[str, typer.Argument(help="Whose keys to revoke.")],
    reason: Annotated[str, typer.Option(help="Why; stands in the roster.")] = "revoked",
) -> None:
    """Take a site's keys out for good: lost, stolen, or the site has left. They can never come back.

    \b
    Examples:
      fedsteph roster revoke roster.yaml kirp --reason 'laptop lost'

    It takes effect at each site when that site pins the new digest.
    """
    from fedsteph.common.trust.roster import read_roster, write_roster

    changed = read_roster(file).without(site, _today(), reason)
    write_roster(file, changed)
    console.say(changed.digest)


@roster.command("key")
def key(out: Annotated[Path, typer.Argument(help="The new file of the secret key, e.g. keys/roster.key.")]) -> None:
    """Make the coordinator's key for rosters; sites that accept additions pin its public half, which is printed.

    \b
    Examples:
      fedsteph roster key keys/roster.key

    Read the public half out over the telephone. Keep the secret half off the server: whoever has it can add sites.
    """
    from fedsteph.common.trust.roster_key import make_roster_key

    public = make_roster_key(out)
    console.tell(f"secret, stays with you: {out}. For federation.roster_key in the sites' files:")
    console.say(public)


@roster.command("sign")
def sign(
    file: RosterArgument,
    key: Annotated[Path, typer.Option(help="The coordinator's secret key, from 'fedsteph roster key'.")],
    new_key: Annotated[bool, typer.Option("--new-key", help="The roster was signed by another key before.")] = False,
) -> None:
    """Sign a roster as the one that follows those signed before; runs bring it to the sites.

    \b
    Examples:
      fedsteph roster sign roster.yaml --key keys/roster.key

    Sign first the roster that all sites pin, and then each that follows it. Sites with roster_changes: additions accept
    one that only adds sites; any other change is still pinned by people.
    """
    from fedsteph.common.trust.roster import read_roster
    from fedsteph.common.trust.roster_key import public_text, read_roster_key
    from fedsteph.common.trust.signed_roster import earlier_chain, signature_path, write_signature
    from fedsteph.common.trust.signed_roster import sign as sign_roster

    found, secret = read_roster(file), read_roster_key(key)
    before = earlier_chain(file, None if new_key else public_text(secret))
    signed = sign_roster(found, before, secret, file)
    write_signature(file, signed)
    console.tell(f"{signature_path(file)}: number {len(signed.chain)} of its history, signed by {public_text(secret)}")
    console.say(signed.chain[-1])


def _existing_or_new(file: Path, federation: str | None) -> Roster:
    from fedsteph.common.trust.roster import Roster, read_roster

    if file.exists():
        found = read_roster(file)
        if federation not in (None, found.federation):
            raise RosterError(f"is of the federation {found.federation}, not {federation}", where=file)
        return found
    if federation is None:
        raise ConfigError("there is no such roster", where=file, remedy="Give --federation NAME to make a new one")
    try:
        return Roster(federation)
    except ValueError as error:
        raise ConfigError(str(error), where="--federation") from error


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[i : i + 8] for i in range(0, len(fingerprint), 8))


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"
