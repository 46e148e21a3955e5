"""Brings a site back from a backup, and turns back neither ledger, audit log nor sequence numbers.

The rule. Into a new folder everything is restored. What happened after the backup is not known then, so the site goes
on as if the worst had happened: numbers jump ahead, nothing that was sealed before is accepted, and the ledger has an
entry for what may have left. In a folder that has a ledger, an audit log or numbers, only what is missing is put back;
where these three lag behind the backup's, they become the backup's, with the same repair; where they are further, the
restore is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedsteph.client.privacy.ledger import Entry, Ledger
from fedsteph.client.sharing import kept_record
from fedsteph.client.sharing.replay import jump_ahead
from fedsteph.client.site.site import Site
from fedsteph.client.upkeep.site_archive import About, unpack
from fedsteph.client.upkeep.standing import Standing, paths
from fedsteph.common.errors import BackupError, TurnedBackError
from fedsteph.common.host import atomic
from fedsteph.common.host.disk import writing
from fedsteph.common.host.lock import exclusive
from fedsteph.common.trust.audit_log import Event, verify
from fedsteph.common.trust.key_file import write_secret
from fedsteph.common.trust.passphrase_file import open_by_passphrase
from fedsteph.common.trust.roster import read_roster

RESTORED = "site.restore"
_UNTOUCHED = "Nothing was changed"


@dataclass(frozen=True)
class Spent:
    """What the site answers for: all that left after the backup cost at most this epsilon, at this delta."""

    epsilon: float
    delta: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < float("inf"):
            raise BackupError("must be a number of at least 0", where="--spent")
        if (self.delta is None) != (self.epsilon == 0) or not 0 < (self.delta or 0.5) < 1:
            raise BackupError("must be between 0 and 1, and stand with --spent above 0 alone", where="--spent-delta")


@dataclass(frozen=True)
class Restored:
    """What was done: of which site, from when, which files were written, and whether the rule's repair was needed."""

    about: About
    files: tuple[str, ...]
    repaired: bool


def restore(file: Path, folder: Path, passphrase: str, spent: Spent | None = None) -> Restored:
    """Restore a backup into ``folder``; files are readable by this account alone.

    Args:
        spent: what left after the backup at most; None: nobody knows, and the ledger has no bound any more.

    Raises:
        BackupError: the backup cannot be read, or the folder has content that is no site's.
        TurnedBackError: the folder's ledger, audit log or numbers are further than the backup's.
        AuditError, LedgerError, RunFolderError: those in the backup, or in the folder, are damaged.
    """
    try:
        sealed = file.read_bytes()
    except OSError as error:
        raise BackupError(f"cannot be read ({error.strerror})", where=file, remedy="Give the backup's file") from error
    about, files = unpack(open_by_passphrase(sealed, passphrase, file), file)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BackupError("is a link, or no folder", where=folder, remedy="Give a new folder")
    part = folder.absolute().parent / f".{folder.name}.restoring"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(part, files)
        site = _checked(part, about)
        if not folder.exists() or not any(folder.iterdir()):
            _repair(site, about, spent)
            with writing(folder):
                if folder.exists():
                    folder.rmdir()
                part.rename(folder)
            return Restored(about, tuple(sorted(files)), repaired=True)
        return _into(folder, part, about, files, spent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_secret(path, content)
    folder.chmod(0o700)


def _checked(part: Path, about: About) -> Site:
    site = Site.open(part / about.site_file)
    if (site.name, site.folder / about.state, site.audit.folder) != (about.site, site.state, part / about.audit):
        raise BackupError("its site file is not that of its content", where=about.site_file)
    verify(site.audit.folder)
    Ledger(site.audit).entries()
    return site


def _repair(site: Site, about: About, spent: Spent | None) -> None:
    """The rule, for what happened after the backup."""
    federation = site.file.federation
    roster = None if federation is None else read_roster(site.folder / federation.roster)
    jump_ahead(site.state, [] if roster is None else [entry.fingerprint for entry in roster.sites])
    epsilon, delta = (None, None) if spent is None else (spent.epsilon, spent.delta)
    Ledger(site.audit).spend(Entry.unknown(about.made, epsilon, delta), None)
    site.audit.append(Event(RESTORED, reason=f"from a backup of {about.made}"))


def _into(folder: Path, part: Path, about: About, files: Iterable[str], spent: Spent | None) -> Restored:
    """Into a folder with content: put back what is missing, and nothing that would turn the site back."""
    state, audit = folder / about.state, folder / about.audit
    standing = paths(about.state, about.audit)
    if not any((folder / name).exists() for name in standing):
        remedy = "Give a new folder, and copy what is restored there"
        raise BackupError("has content, and neither ledger, audit log nor numbers", where=folder, remedy=remedy)
    if (folder / about.site_file).exists():
        _checked_like(folder, about)
    with exclusive(state, wait=False):
        present, found = Standing.read(state, audit), Standing.read(part / about.state, part / about.audit)
        if (what := found.behind(present)) is not None:
            raise TurnedBackError(
                f"{what} there has gone on since the backup of {about.made}. {_UNTOUCHED}",
                where=folder,
                remedy="Keep that folder. If it is damaged, move it away, and restore into a new one",
            )
        lags = present != found
        kept = f"{about.state}/{kept_record.FOLDER}/"  # whether they were removed on purpose cannot be told
        missing = [n for n in files if n not in standing and not n.startswith(kept) and not (folder / n).exists()]
        moved = [*(name for name in standing if lags and (part / name).exists()), *missing]
        for name in moved:
            with writing(folder / name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic.write_bytes(folder / name, (part / name).read_bytes())
        site = Site.open(folder / about.site_file)
        if lags:
            _repair(site, about, spent)
        else:
            site.audit.append(Event(RESTORED, reason=f"what was missing, from a backup of {about.made}"))
    return Restored(about, tuple(sorted(moved)), repaired=lags)


def _checked_like(folder: Path, about: About) -> None:
    site = Site.open(folder / about.site_file)
    if (site.name, site.state, site.audit.folder) != (about.site, folder / about.state, folder / about.audit):
        what = f"is of another site than the backup's, which is {about.site}, or names other folders"
        raise BackupError(what, where=folder / about.site_file, remedy="Restore into a new folder")
