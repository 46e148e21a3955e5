"""Writes a backup of a site into one sealed file: what the site cannot make again, and nothing of its patients.

Keys, roster, site file, ledger, audit log, sequence numbers, replay memory and kept vectors are in it. Features, labels
and trained models are not.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from fedsteph.client.privacy.ledger import Ledger
from fedsteph.client.sharing import kept_record
from fedsteph.client.sharing.kept_record import SUFFIX
from fedsteph.client.site.membership import MembershipFile
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_file import SITE_FILE
from fedsteph.client.upkeep.site_archive import About, is_inside, pack
from fedsteph.client.upkeep.standing import NUMBER_FILES, TRUST_FILES
from fedsteph.common.errors import BackupError
from fedsteph.common.host import atomic
from fedsteph.common.host.lock import exclusive
from fedsteph.common.trust.audit_log import Event, verify
from fedsteph.common.trust.passphrase_file import open_by_passphrase, require_passphrase, seal_by_passphrase

_KEYS = ("roster", "sign_key", "seal_key", "ca", "auth_key", "superexec_secret")
_PUBLIC = "*.public.yaml"
MADE = "site.backup"


def backup(path: Path, out: Path, passphrase: str) -> list[str]:
    """Write a site's backup to a new file that this account alone can read, and read it once more to check it.

    Args:
        path: the site file, or its folder.
        out: the file to write; it must not exist.

    Returns:
        The files in it, relative to the site's folder.

    Raises:
        BackupError: a short passphrase, a file that is missing, or a path that leads out of the site's folder.
        AuditError, LedgerError: the audit log or the ledger is damaged: an older backup is then worth more.
    """
    require_passphrase(passphrase)
    if os.path.lexists(out):
        raise BackupError("exists already", where=out, remedy="Choose another name, e.g. with the date")
    site, site_file = Site.open(path), path.name if path.is_file() else SITE_FILE
    federation = _federation(site, site_file)
    verify(site.audit.folder)
    Ledger(site.audit).entries()
    made = datetime.now(UTC).isoformat(timespec="seconds")
    site.audit.append(Event(MADE))  # before it is copied, so that a backup knows of itself
    about = About(made, version("fedsteph"), site.name, site_file, _plain(site.file.state), _plain(federation.audit))
    files = _files(site, about, federation)
    content = pack(about, files)
    atomic.write_bytes(out, seal_by_passphrase(content, passphrase))
    if open_by_passphrase(out.read_bytes(), passphrase, out) != content:
        raise BackupError("does not read as it was written", where=out, remedy="Check the disk")
    return sorted(files)


def _federation(site: Site, site_file: str) -> MembershipFile:
    where, found = site.folder / site_file, site.file.federation
    if found is None:
        remedy = "A site of no federation has no keys and no ledger: copy its site file"
        raise BackupError("has no 'federation' section", where=where, remedy=remedy)
    if site.file.name is None:
        raise BackupError("has no 'name', so that another folder is another site", where=where, remedy="Write it there")
    paths = {"state": site.file.state, "federation.audit": found.audit}
    paths |= {f"federation.{key}": value for key in _KEYS if (value := getattr(found, key)) is not None}
    for key, value in paths.items():
        if not is_inside(_plain(value)):
            remedy = "Move it there and write a relative path: it has to hold on the machine of the restore, too"
            raise BackupError(f"{key}: '{value}' is not inside the site's folder", where=where, remedy=remedy)
    return found


def _plain(path: str) -> str:
    return PurePosixPath(path).as_posix()


def _files(site: Site, about: About, federation: MembershipFile) -> dict[str, bytes]:
    folder = site.folder
    names = [about.site_file, *(_plain(value) for key in _KEYS if (value := getattr(federation, key)) is not None)]
    public = folder / Path(federation.sign_key).parent
    names += [path.relative_to(folder).as_posix() for path in sorted(public.glob(_PUBLIC))]
    files = {name: _read(folder / name) for name in names}
    # The ledger changes under this lock, and with it the audit log, whose own lines are whole at any time.
    ledger = (site.audit.folder / TRUST_FILES[0]).with_suffix(".lock")
    with exclusive(ledger, wait=True), exclusive(site.audit.folder, wait=True):
        files |= _present(folder, [f"{about.audit}/{name}" for name in TRUST_FILES])
    vectors = folder / about.state / kept_record.FOLDER
    if vectors.exists():
        with exclusive(vectors, wait=True):
            kept = sorted(vectors.glob(f"*{SUFFIX}"))
            files |= _present(folder, [f"{about.state}/{kept_record.FOLDER}/{path.name}" for path in kept])
    # Last: a number is on the disk before it is used, so these are as far as anything above.
    return files | _present(folder, [f"{about.state}/{name}" for name in NUMBER_FILES])


def _present(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {name: _read(folder / name) for name in names if (folder / name).exists()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror}), and site.yaml names it"
        raise BackupError(what, where=path, remedy="Put it there, or take its key out of site.yaml") from error
