"""A site's standing in a federation: its secret keys, and the pinned roster that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedsteph.common.errors import MembershipError, RosterError, UnknownRecipientError, UnknownSenderError
from fedsteph.common.trust.key_file import read_identity
from fedsteph.common.trust.keys import ROSTER_PUBLIC, Identity, PublicKeys, decode
from fedsteph.common.trust.roster import Roster, read_roster
from fedsteph.common.trust.signed_roster import SignedRoster
from fedsteph.common.wire.messages import RunId


@dataclass(frozen=True)
class MembershipFile:
    """``federation`` in ``site.yaml``: paths relative to the site file, and the digest that all sites agreed on."""

    roster: str  # file of the roster: all sites' public keys
    # digest of the roster, from 'fedsteph roster digest', compared with the other sites by telephone
    # [64 hexadecimal digits]
    roster_sha256: str
    sign_key: str  # file of this site's secret signing key, made by 'fedsteph keys new'
    seal_key: str  # file of this site's secret key that opens what is sealed for it, made by 'fedsteph keys new'
    # what may follow the pinned roster. pinned: nothing, until you pin another; additions: a roster that the
    # coordinator sends, if it only adds sites, keeps all that the site knows, and is signed by roster_key
    roster_changes: Literal["pinned", "additions"] = "pinned"
    # the coordinator's public key for rosters, from 'fedsteph roster key', compared by telephone; with roster_changes:
    # additions [a text that begins with fedsteph-roster-public-v1:]
    roster_key: str | None = None
    audit: str = "fedsteph-audit"  # folder of the audit log and the privacy ledger
    server: str | None = None  # host:port of the server; only 'fedsteph doctor' and 'status' read it
    ca: str | None = None  # certificate that signed the server's; only 'fedsteph doctor' and 'status' read it
    # file of this node's secret key for Flower; only 'fedsteph doctor' and 'status' read it
    auth_key: str | None = None
    # file of the secret that SuperNode and SuperExec share; only 'fedsteph doctor' and 'status' read it
    superexec_secret: str | None = None
    flwr_home: str | None = None  # Flower's folder, with the reviewed app; only 'fedsteph doctor' and 'status' read it

    def __post_init__(self) -> None:
        if len(self.roster_sha256) != 64 or set(self.roster_sha256) - set("0123456789abcdef"):
            raise ValueError("roster_sha256 must be the 64 hexadecimal digits that 'fedsteph roster digest' prints")
        if self.server is not None and not self.server.rpartition(":")[2].isdecimal():
            raise ValueError("server must be like 'fl.example.org:9092'")
        if self.roster_changes == "additions" and self.roster_key is None:
            raise ValueError("roster_changes: additions needs roster_key, the coordinator's public key for rosters")
        if self.roster_key is not None:
            decode(self.roster_key, ROSTER_PUBLIC, "federation.roster_key")


@dataclass(frozen=True)
class Membership:
    """Keys and roster, checked against each other; ``signed``: what was accepted beyond the pinned roster."""

    site: str
    identity: Identity
    roster: Roster
    signed: SignedRoster | None = None

    @classmethod
    def open(cls, site: str, folder: Path, file: MembershipFile, cancer: str | None = None) -> Membership:
        """Read keys and roster; the paths in ``file`` are relative to ``folder``. ``cancer``: what the site states.

        Raises:
            KeyFileError: a key is missing or others can read it.
            RosterError: the roster is not the pinned one.
            MembershipError: this site's keys or cancer are not those that the roster has under its name.
        """
        roster = read_roster(folder / file.roster, file.roster_sha256)
        identity = read_identity(folder / file.sign_key, folder / file.seal_key)
        entry = roster.entry(site)
        if entry is None or entry.keys != identity.public:
            found = "no entry" if entry is None else "other keys"
            raise MembershipError(
                f"the roster has {found} under the name {site}",
                where=folder / file.roster,
                remedy="After a rotation, point sign_key and seal_key at the new files; else give the coordinator this "
                "site's .public.yaml, and pin the roster that holds it",
            )
        if cancer is not None and entry.cancer != cancer:
            raise MembershipError(
                f"'cancer' in site.yaml is {cancer}, and the roster has {entry.cancer or 'none'} for {site}",
                where=folder / file.roster,
                remedy="Correct site.yaml, or have the roster corrected and pin it anew with all sites",
            )
        return cls(site, identity, roster)

    def require_run(self, run: RunId) -> None:
        """Raise MembershipError for a run of another federation, and RosterError for one with another roster."""
        if run.federation != self.roster.federation:
            what = f"the run is of the federation {run.federation}, this site of {self.roster.federation}"
            raise MembershipError(what, where="request")
        if run.roster_sha256 != self.roster.digest:
            raise RosterError(
                f"the run has a roster with the digest {run.roster_sha256}, this site "
                f"{'pins' if self.signed is None else 'has accepted'} {self.roster.digest}",
                where="request",
                remedy="Compare both by telephone, and pin the new one only if all sites agree",
            )

    def cancer_of(self, site: str) -> str | None:
        """The cancer of a site in the pinned roster; None: not stated, or no such site."""
        entry = self.roster.entry(site)
        return None if entry is None else entry.cancer

    def is_kin(self, site: str) -> bool:
        """Whether the pinned roster states the same cancer for another site as for this one."""
        cancer = self.cancer_of(self.site)
        return cancer is not None and cancer == self.cancer_of(site)

    def keys_to(self, site: str) -> PublicKeys:
        """The pinned public keys of a site to seal to; UnknownRecipientError if the roster does not list it."""
        entry = self.roster.entry(site)
        if entry is None:
            remedy = "Have it entered in the roster ('fedsteph roster add'), and pin the new roster"
            raise UnknownRecipientError(f"{site} is not in the pinned roster", where="recipients", remedy=remedy)
        return entry.keys

    def keys_of(self, site: str) -> PublicKeys:
        """The pinned public keys of another site; UnknownSenderError if the roster does not list it."""
        entry = self.roster.entry(site)
        if entry is None:
            raise UnknownSenderError(f"{site} is not in the pinned roster", where="roster")
        return entry.keys
