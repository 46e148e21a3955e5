"""The public-key file that a site gives to the roster's keeper; after a rotation, the old key signs the new keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature

from fedsteph.common.config.run_config import require_cancer, require_name
from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.errors import RosterError
from fedsteph.common.trust.keys import Identity, PublicKeys
from fedsteph.common.trust.roster import Entry, Roster, write_public

FORMAT: Literal["fedsteph/public-keys/v1"] = "fedsteph/public-keys/v1"
_ROTATION_LABEL = b"fedsteph/v1/rotation\n"
_HEADER = "# fedsteph PUBLIC keys: give this file to whoever keeps the roster ('fedsteph roster add ROSTER FILE').\n"


@dataclass(frozen=True)
class Announcement:
    """A site's public keys and its cancer; after a rotation, with a signature by the old key over all of it."""

    site: str
    sign: str
    seal: str
    fingerprint: str
    replaces: str | None = None  # fingerprint of the old keys
    proof: str | None = None  # Ed25519 signature by the old key, hexadecimal
    cancer: str | None = None  # None: not stated
    format: Literal["fedsteph/public-keys/v1"] = field(default=FORMAT)

    def __post_init__(self) -> None:
        require_name(self.site)
        require_cancer(self.cancer)
        if self.keys.fingerprint != self.fingerprint:
            raise ValueError("fingerprint is not that of the keys: one of the three lines was changed")
        if (self.replaces is None) != (self.proof is None):
            raise ValueError("replaces and proof come together")

    @classmethod
    def of(
        cls, site: str, identity: Identity, before: Identity | None = None, cancer: str | None = None
    ) -> Announcement:
        """The announcement of an identity's public keys, signed by ``before`` if they replace its keys.

        Raises:
            ValueError: the site or the cancer is no short name.
        """
        keys = identity.public
        plain = cls(site, keys.sign_text, keys.seal_text, keys.fingerprint, cancer=cancer)
        if before is None:
            return plain
        old = before.public.fingerprint
        proof = before.signer.sign(_rotation(site, old, plain.fingerprint, cancer)).hex()
        return replace(plain, replaces=old, proof=proof)

    @property
    def keys(self) -> PublicKeys:
        """The public keys, parsed."""
        return PublicKeys.parse(self.sign, self.seal, f"public keys of {self.site}")

    def enter(self, roster: Roster, *, cancer: str | None, contact: str | None, today: str) -> Roster:
        """The roster with these keys, of a new site or in place of those that they replace, whose fields None keeps.

        ``cancer`` is the announced one if None. Raises RosterError if the announcement states another cancer, the site
        has other keys in the roster that did not sign this rotation, the keys were revoked, or a new site lacks
        ``contact``.
        """
        if None not in (cancer, self.cancer) and cancer != self.cancer:
            remedy = "Ask the site by telephone which it is, and leave --cancer out if it is the announced one"
            raise RosterError(f"{self.site} announces the cancer {self.cancer}, not {cancer}", remedy=remedy)
        cancer, before = cancer or self.cancer, roster.entry(self.site)
        if before is not None:
            if self.replaces is None:
                remedy = f"After a loss: 'fedsteph roster revoke ROSTER {self.site}', then add it again; "
                remedy += "to change keys: 'fedsteph keys rotate'"
                raise RosterError(f"{self.site} stands in the roster already", remedy=remedy)
            if before.fingerprint != self.replaces or not self._proven_by(before.keys):
                what = f"the keys that {self.site} has in the roster did not sign this rotation"
                remedy = f"Ask the site by telephone; if it is so: 'fedsteph roster revoke ROSTER {self.site}' first"
                raise RosterError(what, remedy=remedy)
            roster = roster.without(self.site, today, "rotated")
            cancer, contact = cancer or before.cancer, contact or before.contact
        if contact is None:
            raise RosterError("a new site needs --contact", remedy="Give whom to telephone: a role, not a person")
        try:
            entry = Entry.of(self.site, self.keys, cancer=cancer, contact=contact)
        except ValueError as error:
            raise RosterError(str(error)) from error
        return roster.with_entry(entry)

    def _proven_by(self, keys: PublicKeys) -> bool:
        try:
            signature = bytes.fromhex(self.proof or "")
            keys.verifier.verify(signature, _rotation(self.site, str(self.replaces), self.fingerprint, self.cancer))
        except (InvalidSignature, ValueError):
            return False
        return True


def write_announcement(path: Path, announcement: Announcement) -> None:
    """Write the public-key file atomically, readable by all users."""
    write_public(path, _HEADER, {key: value for key, value in asdict(announcement).items() if value is not None})


def read_announcement(path: Path) -> Announcement:
    """Read a public-key file. Raises ConfigError or KeyFormatError if it is not a public-key file, or was changed."""
    return build(Announcement, read_yaml(path), path)


def _rotation(site: str, old: str, new: str, cancer: str | None) -> bytes:
    stated = "" if cancer is None else f"{cancer}\n"
    return _ROTATION_LABEL + f"{site}\n{old}\n{new}\n{stated}".encode()
