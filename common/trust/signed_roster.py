"""A roster that the coordinator has signed, with the digests of all rosters before it.

A site that pins one of these digests, and the coordinator's roster key, can accept a later roster by itself
(:mod:`fedsteph.client.site.additions.roster_additions`). One signature covers the roster and its whole history: an
older roster cannot be passed off as a newer one, and two rosters that follow the same one have different histories.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedsteph.common.config.digest import canonical
from fedsteph.common.config.require import require
from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.errors import ConfigError, FedstephError, RosterError, RosterForkError, RosterSignatureError
from fedsteph.common.trust.keys import ROSTER_PUBLIC, decode
from fedsteph.common.trust.roster import Roster, digest_of_text, write_public

MOST_CHARACTERS = 3_000_000  # of a roster's text, about 1,600 sites: a hello must fit into one message
MOST_ROSTERS = 1000
_LABEL = b"fedsteph/v1/roster-chain\n"
_HEX = re.compile("[0-9a-f]{64}")
_HEADER = """\
# fedsteph: the coordinator's signature for the roster beside this file, made with 'fedsteph roster sign'.
# chain: the digests of all rosters that were signed, the first one first; the last is that of the signed roster.
"""


@dataclass(frozen=True)
class SignatureFile:
    """The file beside a roster: the digests of all signed rosters, and the signature (Ed25519, hexadecimal)."""

    chain: tuple[str, ...]
    signature: str
    format: Literal["fedsteph/roster-signature/v1"] = "fedsteph/roster-signature/v1"

    def __post_init__(self) -> None:
        require(len(self.chain) > 0, "chain", "the digests of the signed rosters")


@dataclass(frozen=True)
class SignedRoster:
    """A roster's text (:attr:`Roster.text`), its history and the signature, as they travel.

    Only form and size are checked until :meth:`verified`.
    """

    roster: str
    chain: tuple[str, ...]
    signature: str

    def __post_init__(self) -> None:
        require(0 < len(self.roster) <= MOST_CHARACTERS, "roster", f"1 to {MOST_CHARACTERS} characters")
        known = all(_HEX.fullmatch(one) for one in self.chain) and len({*self.chain}) == len(self.chain)
        require(known and 0 < len(self.chain) <= MOST_ROSTERS, "chain", f"1 to {MOST_ROSTERS} different digests")
        require(re.fullmatch("[0-9a-f]{128}", self.signature) is not None, "signature", "128 hexadecimal digits")

    @cached_property
    def chain_digest(self) -> str:
        """SHA-256 over the history, 64 hexadecimal digits: two sites with one value have got the same rosters."""
        return hashlib.sha256(_signed_bytes(self.chain)).hexdigest()

    def verified(self, key: str, where: str | Path) -> Roster:
        """The roster, if ``key`` (text of the coordinator's public roster key) signed it; nothing is parsed before.

        Raises:
            RosterSignatureError: signed by nobody or another key; or the signature is for another roster.
            KeyFormatError: ``key`` is no public roster key.
        """
        if not _is_signed(self.chain, self.signature, key):
            remedy = "Ask the coordinator by telephone whether the key changed; do not go on without"
            what = "is not signed by the key of federation.roster_key"
            raise RosterSignatureError(what, where=where, remedy=remedy)
        if digest_of_text(self.roster) != self.chain[-1]:
            raise RosterSignatureError("is another roster than the signed one", where=where)
        try:
            found = build(Roster, json.loads(self.roster), where)
        except (ValueError, RecursionError, FedstephError) as error:
            raise RosterSignatureError("is signed, and no roster that this version reads", where=where) from error
        if found.text != self.roster:
            raise RosterSignatureError("is signed, and not in a roster's one form", where=where)
        return found


def signature_path(roster: Path) -> Path:
    """Where the signature of a roster's file lies: ``roster.yaml`` has ``roster.signature.yaml``."""
    return roster.with_suffix(".signature.yaml")


def sign(roster: Roster, before: tuple[str, ...], key: Ed25519PrivateKey, where: Path) -> SignedRoster:
    """Sign a roster as the one that follows ``before``, the digests of all rosters signed so far.

    Raises RosterForkError if it is one of them, but not the last: no roster comes back. RosterError if it is too large.
    """
    digest = roster.digest
    if digest in before[:-1]:
        remedy = "Take the newest roster; to take a site out: 'fedsteph roster revoke'"
        raise RosterForkError("is an older roster, which others have followed", where=where, remedy=remedy)
    chain = before if digest in before else (*before, digest)
    try:
        return SignedRoster(roster.text, chain, key.sign(_signed_bytes(chain)).hex())
    except ValueError as error:
        raise RosterError(f"cannot be signed: {error}", where=where) from error


def earlier_chain(path: Path, key: str | None) -> tuple[str, ...]:
    """The digests of the rosters that were signed so far, from the file beside a roster's; none if there is no file.

    Raises RosterSignatureError if it is not signed by ``key`` (None: by any); RosterError if it is damaged.
    """
    beside = signature_path(path)
    if not beside.exists():
        return ()
    found = _read(beside)
    if key is not None and not _is_signed(found.chain, found.signature, key):
        remedy = "Use the key of before; with a new one, which all sites have to pin: --new-key"
        raise RosterSignatureError("was not signed by this key, or was changed", where=beside, remedy=remedy)
    return found.chain


def _read(path: Path) -> SignatureFile:
    try:
        return build(SignatureFile, read_yaml(path), path)
    except ConfigError as error:
        raise RosterError(error.what, where=path, remedy="Restore it from the coordinator's backup") from error


def _is_signed(chain: tuple[str, ...], signature: str, key: str) -> bool:
    public = Ed25519PublicKey.from_public_bytes(decode(key, ROSTER_PUBLIC, "federation.roster_key"))
    try:
        public.verify(bytes.fromhex(signature), _signed_bytes(chain))
    except (InvalidSignature, ValueError):
        return False
    return True


def read_signed(path: Path, roster: Roster) -> SignedRoster | None:
    """The signature beside a roster's file, with the roster; None if there is none.

    Raises RosterError if it is damaged, or the roster has changed since it was signed.
    """
    beside = signature_path(path)
    if not beside.exists():
        return None
    found = _read(beside)
    if roster.digest != found.chain[-1]:
        remedy = f"Sign it: fedsteph roster sign {path} --key FILE; or remove this file: sites then pin by hand"
        raise RosterError("the roster was changed after it was signed", where=beside, remedy=remedy)
    try:
        return SignedRoster(roster.text, found.chain, found.signature)
    except ValueError as error:
        raise RosterError(str(error), where=beside, remedy=f"fedsteph roster sign {path} --key FILE") from error


def write_signature(path: Path, signed: SignedRoster) -> None:
    """Write the signature's file beside a roster's, atomically, readable by all."""
    content = {"format": SignatureFile.format, "chain": list(signed.chain), "signature": signed.signature}
    write_public(signature_path(path), _HEADER, content)


def _signed_bytes(chain: tuple[str, ...]) -> bytes:
    # A roster's digest covers its federation's name, so that no chain holds for two federations.
    return _LABEL + canonical(list(chain))
