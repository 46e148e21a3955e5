"""The roster: the public keys of all sites, agreed on outside the federation and pinned by digest at each site.

A site seals only to keys in this file, and accepts only signatures by them. It trusts no key from the server.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from fedsteph.common.config.core_yaml import StrictDumper
from fedsteph.common.config.digest import canonical
from fedsteph.common.config.require import require
from fedsteph.common.config.run_config import SITE_NAME, require_cancer, require_name
from fedsteph.common.config.schema import build, read_yaml
from fedsteph.common.errors import ConfigError, KeyFormatError, RosterError
from fedsteph.common.host import atomic
from fedsteph.common.host.unchanged import Unchanged
from fedsteph.common.trust.keys import PublicKeys

FILE = "roster.yaml"
FORMAT: Literal["fedsteph/roster/v1"] = "fedsteph/roster/v1"
_LABEL = b"fedsteph/v1/roster\n"
_MOST_BYTES = 4 << 20  # of its file; 1,000 sites take 1.8 MiB
_HEX = re.compile(r"[0-9a-f]{64}")
_HEADER = """\
# fedsteph roster: public keys only, made with 'fedsteph roster'. Everyone compares its digest by telephone
# ('fedsteph roster digest FILE') and pins it in their own site.yaml. Comments do not change the digest.
"""


def _require_line(text: str, what: str) -> None:
    require(0 < len(text) <= 120 and text.isprintable(), what, "one printable line of at most 120 characters")


_known: Unchanged[Roster] = Unchanged()  # a thousand sites take most of a second to parse


@dataclass(frozen=True)
class Entry:
    """One site: name, cancer, contact, public keys and their fingerprint. A contact is a role, not a person.

    The cancer is a short name, e.g. brca, and None if it is not known: under ``sharing.head`` same_cancer, heads travel
    between sites of one cancer alone.
    """

    site: str
    cancer: str | None
    contact: str
    sign: str
    seal: str
    fingerprint: str

    def __post_init__(self) -> None:
        require_name(self.site)
        require_cancer(self.cancer)
        _require_line(self.contact, "contact")
        if self.keys.fingerprint != self.fingerprint:
            raise ValueError(f"fingerprint of {self.site} is not that of its keys: one of the three lines was changed")

    @classmethod
    def of(cls, site: str, keys: PublicKeys, *, cancer: str | None, contact: str) -> Entry:
        """The entry for a site's public keys."""
        return cls(site, cancer, contact, keys.sign_text, keys.seal_text, keys.fingerprint)

    @cached_property
    def keys(self) -> PublicKeys:
        """The public keys, parsed."""
        return PublicKeys.parse(self.sign, self.seal, f"roster entry of {self.site}")


@dataclass(frozen=True)
class Revocation:
    """Revoked keys, which no roster may list again."""

    site: str
    fingerprint: str
    date: str
    reason: str

    def __post_init__(self) -> None:
        if SITE_NAME.fullmatch(self.site) is None or _HEX.fullmatch(self.fingerprint) is None:
            raise ValueError("revoked keys need the site's name and 64 hexadecimal digits of fingerprint")
        dated = re.fullmatch("[0-9]{4}-[01][0-9]-[0-3][0-9]", self.date) is not None
        require(dated, "date", "like '2026-01-31', in quotes")
        _require_line(self.reason, "reason")


@dataclass(frozen=True)
class Roster:
    """All sites of one federation, and the revoked keys."""

    federation: str
    sites: tuple[Entry, ...] = ()
    revoked: tuple[Revocation, ...] = ()
    format: Literal["fedsteph/roster/v1"] = field(default=FORMAT)

    def __post_init__(self) -> None:
        require(SITE_NAME.fullmatch(self.federation) is not None, "federation", f"like {SITE_NAME.pattern}")
        names = [entry.site for entry in self.sites]
        for values in (names, [entry.sign for entry in self.sites], [entry.seal for entry in self.sites]):
            require(len(set(values)) == len(values), "sites", "different names with different keys")
        gone = [revoked.fingerprint for revoked in self.revoked]
        if len(set(gone)) < len(gone):
            raise ValueError("revoked must list each fingerprint once")
        if back := set(gone) & {entry.fingerprint for entry in self.sites}:
            raise ValueError(f"sites lists keys that were revoked: {', '.join(sorted(back))}")

    @property
    def digest(self) -> str:
        """SHA-256 over the content, 64 hexadecimal digits, independent of comments, layout and order."""
        return digest_of_text(self.text)

    @property
    def text(self) -> str:
        """The content in its one form, as JSON: what the digest covers."""
        content = json.loads(json.dumps(asdict(self)))
        content["sites"].sort(key=lambda entry: entry["site"])
        content["revoked"].sort(key=lambda entry: entry["fingerprint"])
        return canonical(content).decode()

    def entry(self, site: str) -> Entry | None:
        """The site's entry, or None."""
        return next((entry for entry in self.sites if entry.site == site), None)

    def with_entry(self, entry: Entry) -> Roster:
        """The roster with one more site. Raises RosterError if its name or keys are in it, or the keys were revoked."""
        if self.entry(entry.site) is not None:
            remedy = f"After a rotation or a loss: 'fedsteph roster revoke ROSTER {entry.site}', then add it again"
            raise RosterError(f"{entry.site} stands in the roster already", remedy=remedy)
        return self._changed(sites=(*self.sites, entry))

    def without(self, site: str, date: str, reason: str) -> Roster:
        """The roster without a site, its keys revoked for good; RosterError: unknown site, invalid date or reason."""
        entry = self.entry(site)
        if entry is None:
            names = ", ".join(e.site for e in self.sites) or "nobody yet"
            raise RosterError(f"there is no site {site} in the roster", remedy=f"It lists: {names}")
        try:
            gone = Revocation(site, entry.fingerprint, date, reason)
        except ValueError as error:
            raise RosterError(str(error), where="revocation") from error
        return self._changed(sites=tuple(e for e in self.sites if e.site != site), revoked=(*self.revoked, gone))

    def _changed(self, **changes: tuple[Entry, ...] | tuple[Revocation, ...]) -> Roster:
        try:
            return replace(self, **changes)  # type: ignore[arg-type]
        except ValueError as error:
            raise RosterError(str(error)) from error


def digest_of_text(text: str) -> str:
    """The digest of the roster that has this :attr:`Roster.text`."""
    return hashlib.sha256(_LABEL + text.encode()).hexdigest()


def _read(path: Path) -> Roster:
    return build(Roster, read_yaml(path, _MOST_BYTES), path)


def read_roster(path: Path, pinned: str | None = None) -> Roster:
    """Read a roster. Raises RosterError if it is unreadable, inconsistent, or not of the pinned digest, if given."""
    try:
        roster = _known.get(path, _read)
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            remedy = "Get it from the coordinator; 'fedsteph roster add' makes a new one"
            raise RosterError("there is no such roster", where=path, remedy=remedy) from error
        raise RosterError(error.what, where=error.where, remedy=error.remedy) from error
    except KeyFormatError as error:
        raise RosterError(f"{error.where}: {error.what}", where=path, remedy=error.remedy) from error
    if pinned is not None and roster.digest != pinned:
        remedy = "Ask the other sites by telephone which digest they have; pin a new one only then"
        raise RosterError(f"its digest is {roster.digest}, and not the pinned {pinned}", where=path, remedy=remedy)
    return roster


def write_roster(path: Path, roster: Roster) -> None:
    """Write a roster atomically, readable by all users."""
    write_public(path, _HEADER, json.loads(json.dumps(asdict(roster))))


def write_public(path: Path, header: str, content: dict[str, Any]) -> None:
    """Write public keys as YAML, ``format`` first, atomically, and readable by all users: nothing in it is secret."""
    ordered = {"format": content.pop("format"), **content}
    atomic.write_text(path, header + yaml.dump(ordered, Dumper=StrictDumper, sort_keys=False, width=10_000))
    path.chmod(0o644)
