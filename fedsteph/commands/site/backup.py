"""``fedsteph backup`` and ``fedsteph restore``: what a site cannot make again, in one sealed file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsteph.commands.terminal.options import JsonOption
from fedsteph.common.errors import BackupError
from fedsteph.common.host import console

PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File whose first line is the passphrase; without it you are asked."),
]


def backup(
    site: Annotated[Path, typer.Argument(help="The site's site.yaml, or its folder.")],
    out: Annotated[Path, typer.Option(help="The backup's file; it must not exist yet.")],
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write keys, roster, site file, ledger, audit log, numbers and kept vectors into one sealed file.

    Features, labels and trained models are not in it. Whoever has the file and the passphrase is this site: keep the
    two apart. Without the passphrase nobody can open the file, you neither.

    \b
    Examples:
      fedsteph backup site.yaml --out /backups/kirp-2027-03-01.backup
      fedsteph backup site.yaml --out kirp.backup --passphrase-file /root/kirp.passphrase
    """
    from fedsteph.client.upkeep.backup import backup as write

    passphrase = _passphrase(passphrase_file, twice=True)
    files = write(site, out, passphrase)
    if as_json:
        return console.show_json({"file": str(out), "bytes": out.stat().st_size, "files": files})
    for name in files:
        console.say(f"  {name}")
    console.say(f"sealed, and read once more: {out} ({out.stat().st_size:,} bytes)")


def restore(
    file: Annotated[Path, typer.Argument(help="The backup's file.")],
    to: Annotated[Path, typer.Option(help="A new folder; or the site's own, where something is missing.")],
    spent: Annotated[
        float | None,
        typer.Option(help="Epsilon of all that left after the backup, if you can answer for it; 0: nothing left."),
    ] = None,
    spent_delta: Annotated[float | None, typer.Option(help="The delta of --spent, above 0.")] = None,
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a site back from a backup, and turn back neither ledger, audit log nor sequence numbers.

    Into a new folder: numbers jump ahead, nothing that was sealed before now is accepted, and the ledger has an entry
    for what may have left since. Without --spent that entry has no bound: under policy.epsilon_budget nothing is
    shared then. Into the site's own folder: only what is missing is put back; refused if the folder is further.

    \b
    Examples:
      fedsteph restore kirp.backup --to /opt/fedsteph/kirp-restored
      fedsteph restore kirp.backup --to kirp --spent 0
      fedsteph restore kirp.backup --to kirp --spent 8 --spent-delta 0.002 --passphrase-file kirp.passphrase
    """
    from fedsteph.client.upkeep.restore import Spent
    from fedsteph.client.upkeep.restore import restore as bring_back

    if spent is None and spent_delta is not None:
        raise BackupError("stands without --spent", where="--spent-delta", remedy="Give both, or neither")
    told = None if spent is None else Spent(spent, spent_delta)
    done = bring_back(file, to, _passphrase(passphrase_file, twice=False), told)
    if as_json:
        return console.show_json(
            {"site": done.about.site, "made": done.about.made, "repaired": done.repaired, "files": done.files}
        )
    for name in done.files:
        console.say(f"  {name}")
    console.say(f"restored: {done.about.site}, from the backup of {done.about.made}, to {to}")
    if done.repaired:
        unknown = "is without bound" if told is None else f"counts as epsilon {told.epsilon:g}"
        console.say(f"What left since {unknown} in the ledger ('fedsteph privacy ledger {to}'); numbers jumped ahead.")
        console.say("Ask senders that recalled a vector since to recall it again, and pin the roster of today.")


def _passphrase(file: Path | None, *, twice: bool) -> str:
    """From a file that nobody else can read, or from the terminal; never from the command line, which others see."""
    import getpass
    import sys

    from fedsteph.common.trust.key_file import require_private

    if file is not None:
        require_private(file)
        try:
            return file.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise BackupError("cannot be read as text", where=file) from error
    if not sys.stdin.isatty():
        raise BackupError("there is no terminal to ask for the passphrase", remedy="Give --passphrase-file")
    passphrase = getpass.getpass("passphrase: ")
    if twice and getpass.getpass("once more: ") != passphrase:
        raise BackupError("the two passphrases are not the same", remedy="Type it again")
    return passphrase
