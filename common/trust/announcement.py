"""The public file of a site's keys: what it gives to whoever keeps the roster, and what a rotation proves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from cryptography.exceptions import InvalidSignature

from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.config.schema import StrictDumper, build, read_yaml
from fedsteph.common.errors import RosterError
from fedsteph.common.host import atomic
from fedsteph.common.trust.keys import Identity, PublicKeys
from fedsteph.common.trust.roster import Entry, Roster

FORMAT: Literal["fedsteph/public-keys/v1"] = "fedsteph/public-keys/v1"
_ROTATION_LABEL = b"fedsteph/v1/rotation\n"
_HEADER = "# fedsteph PUBLIC keys: give this file to whoever keeps the roster ('fedsteph roster add ROSTER FILE').\n"


@dataclass(frozen=True)
class Announcement:
    """A site's public halves; after a rotation, also the old keys' word that these replace them."""

    site: str
    sign: str
    seal: str
    fingerprint: str
    replaces: str | None = None  # fingerprint of the keys before
    proof: str | None = None  # Ed25519 signature by the key before, hexadecimal
    format: Literal["fedsteph/public-keys/v1"] = field(default=FORMAT)

    def __post_init__(self) -> None:
        if SITE_NAME.fullmatch(self.site) is None:
            raise ValueError(f"site must be a name like {SITE_NAME.pattern}")
        if self.keys.fingerprint != self.fingerprint:
            raise ValueError("fingerprint is not that of the keys: one of the three lines was changed")
        if (self.replaces is None) != (self.proof is None):
            raise ValueError("replaces and proof come together")

    @classmethod
    def of(cls, site: str, identity: Identity, before: Identity | None = None) -> Announcement:
        """Announce an identity, as the successor of another where there is one."""
        keys = identity.public
        plain = cls(site, keys.sign_text, keys.seal_text, keys.fingerprint)
        if before is None:
            return plain
        old = before.public.fingerprint
        proof = before.signer.sign(_rotation(site, old, plain.fingerprint)).hex()
        return cls(site, plain.sign, plain.seal, plain.fingerprint, old, proof)

    @property
    def keys(self) -> PublicKeys:
        """The public halves, parsed."""
        return PublicKeys.parse(self.sign, self.seal, f"public keys of {self.site}")

    def enter(self, roster: Roster, *, cancer: str | None, contact: str | None, today: str) -> Roster:
        """The roster with these keys: a new site's, or in the place of those that they replace.

        Raises:
            RosterError: the site has other keys there, and no proof of theirs comes with these.
        """
        before = roster.entry(self.site)
        if before is not None and self.replaces is None:
            raise RosterError(
                f"{self.site} stands in the roster already",
                remedy=f"After a loss: 'fedsteph roster revoke ROSTER {self.site}', then add it again; "
                "to change keys: 'fedsteph keys rotate'",
            )
        if before is not None:
            if before.fingerprint != self.replaces or not self._proven_by(before.keys):
                raise RosterError(
                    f"the keys that {self.site} has in the roster did not sign this rotation",
                    remedy=f"Ask the site by telephone; if it is so: 'fedsteph roster revoke ROSTER {self.site}' first",
                )
            roster = roster.without(self.site, today, "rotated")
            cancer, contact = cancer or before.cancer, contact or before.contact
        if cancer is None or contact is None:
            raise RosterError("a new site needs --cancer and --contact", remedy="Give both")
        try:
            entry = Entry.of(self.site, self.keys, cancer=cancer, contact=contact)
        except ValueError as error:
            raise RosterError(str(error)) from error
        return roster.with_entry(entry)

    def _proven_by(self, keys: PublicKeys) -> bool:
        try:
            signature = bytes.fromhex(self.proof or "")
            keys.verifier.verify(signature, _rotation(self.site, str(self.replaces), self.fingerprint))
        except (InvalidSignature, ValueError):
            return False
        return True


def write_announcement(path: Path, announcement: Announcement) -> None:
    """Write the public file atomically, readable by all."""
    content = {key: value for key, value in asdict(announcement).items() if value is not None}
    ordered = {"format": content.pop("format"), **content}
    atomic.write_text(path, _HEADER + yaml.dump(ordered, Dumper=StrictDumper, sort_keys=False, width=10_000))
    path.chmod(0o644)


def read_announcement(path: Path) -> Announcement:
    """Read a public file.

    Raises:
        ConfigError, KeyFormatError: it is none, or was changed.
    """
    return build(Announcement, read_yaml(path), path)


def _rotation(site: str, old: str, new: str) -> bytes:
    return _ROTATION_LABEL + f"{site}\n{old}\n{new}\n".encode()
