"""One hospital: its site file, its standing in a federation, and where its work stays."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from fedsteph.client.site.additions.roster_additions import with_accepted
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site_file import SITE_FILE, SiteFile, read_site_file
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import ConfigError, MembershipError, StorageError
from fedsteph.common.trust.audit_log import AuditLog

TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Site:
    """A site folder, read.

    ``name`` and ``state`` are what holds; in ``file`` the name may be left out, and a command may give another state.
    """

    name: str
    folder: Path
    file: SiteFile  # the keys of site.yaml, with what a command or a simulation sets instead
    state: Path
    tensorboard: Path | None = None  # where epochs are written for TensorBoard; None: nowhere
    cores: int | None = None  # the machine's cores that it may use, where sites share a machine; None: all

    @classmethod
    def open(cls, folder: Path | str, *, state: Path | str | None = None, device: str | None = None) -> Site:
        """Read a site folder: ``site.yaml`` where there is one, else the default layout.

        Args:
            folder: the site's folder, or its site file of any name.
            state: instead of the site file's own state folder.
            device: instead of the site file's own device.

        Raises:
            ConfigError: no such folder, a name that is no site name, or a fault in ``site.yaml``.
        """
        folder, file = read_site_file(Path(folder))
        name = file.name or folder.resolve().name.lower()
        if SITE_NAME.fullmatch(name) is None:
            remedy = f"Set 'name' in {SITE_FILE}: lower-case letters, digits, - and _, at most 32"
            raise ConfigError(f"'{name}' cannot be a site's name", where=folder, remedy=remedy)
        if device is not None:
            file = replace(file, device=device)
        kept = Path(state) if state is not None else folder / file.state
        return cls(name, folder, file, kept, kept / TENSORBOARD if file.tensorboard else None)

    @property
    def m0(self) -> str | None:
        """The site's own file of M0; None: the site file names none."""
        return None if self.file.m0 is None else str((self.folder / self.file.m0).absolute())

    def require_state(self) -> None:
        """Make the state folder: StorageError before long work, and not after it, if it cannot be written."""
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.state):
                pass
        except OSError as error:
            what = f"models and unfinished work cannot be written there ({error.strerror})"
            remedy = f"Give --out, or set 'state' in {SITE_FILE}: a folder that this account can write"
            raise StorageError(what, where=self.state, remedy=remedy) from error

    def membership(self) -> Membership:
        """The site's keys and its roster: the pinned one, or what was accepted after it.

        Errors as :meth:`Membership.open` and :func:`with_accepted`, and for a missing section.
        """
        if (file := self.file.federation) is None:
            raise self._lacks("federation")
        self.require_policy()
        member = Membership.open(self.name, self.folder, file, self.file.cancer)
        return with_accepted(member, file, self.state)

    def require_policy(self) -> Policy:
        """What this site lets out; MembershipError if it has no ``policy``, and so takes part in no federation."""
        if self.file.policy is None:
            raise self._lacks("policy")
        return self.file.policy

    def _lacks(self, section: str) -> MembershipError:
        return MembershipError(
            f"has no '{section}' section, so the site takes part in no federation",
            where=self.folder / SITE_FILE,
            remedy="See docs/deployment.md for one to start from",
        )

    @property
    def audit(self) -> AuditLog:
        """The site's audit log, beside its state until the site file names a folder for it."""
        return AuditLog(self.folder / self.file.federation.audit if self.file.federation else self.state / "audit")


def site_folders(parent: Path) -> list[Path]:
    """The site folders in a folder of sites: those with a site file or a ``labels.csv``, by name."""
    if not parent.is_dir():
        raise ConfigError("there is no such folder", where=parent, remedy="Give a folder of site folders")
    folders = []
    for child in sorted(parent.iterdir()):
        if any((child / name).exists() for name in (SITE_FILE, "labels.csv")):
            folders.append(child)
        elif (child / "features").is_dir():
            remedy = f"Add labels.csv, or a {SITE_FILE} that names the labels, or move the folder away"
            raise ConfigError(f"has features but neither {SITE_FILE} nor labels.csv", where=child, remedy=remedy)
    if not folders:
        what = f"holds no site folder (none has {SITE_FILE} or labels.csv)"
        raise ConfigError(what, where=parent, remedy="Give the folder above the site folders")
    return folders
