"""Vectors that travel as files, without a run: to whom, what comes in, and the recall of those sent before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fedsteph.client.sharing import kept_vectors
from fedsteph.client.sharing.incoming import Received, open_once, opening, received
from fedsteph.client.sharing.kept_record import KeptVector
from fedsteph.client.sharing.outgoing import context_of
from fedsteph.client.sharing.replay import next_sequence
from fedsteph.client.sharing.statement import RECALL
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.site import Site
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import (
    ConfigError,
    EnvelopeError,
    MalformedEnvelopeError,
    ReplayedEnvelopeError,
    RosterError,
    StaleEnvelopeError,
    VectorError,
    VectorFileError,
    VectorMismatchError,
    WrongModelError,
)
from fedsteph.common.trust.announcement import read_announcement
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire.envelope import BY_FILE, Context, Opened, read_stated, seal

MOST_BYTES = 512 * 2**20  # of a file; a vector has a few million
_NO_MODEL = "0" * 64  # in the context of a recall, which is about vectors of any model
_OF_ANOTHER_RECIPE = (WrongModelError, VectorFileError, VectorMismatchError)
_CONFIG = "If the file is of another federation's recipe, give that configuration with --config"


@dataclass(frozen=True)
class Imported:
    """What came of a file: the vector that is kept now, or None for a recall, which removed so many."""

    sender: str
    record: KeptVector | None
    removed: int = 0


def recipient_of(to: str, member: Membership) -> str:
    """The name of the site that ``to`` means: a name in the pinned roster, or a file of public keys in it.

    Raises:
        ConfigError: it is neither, or this very site.
        KeyFormatError: the file's keys are damaged.
        RosterError: the file's keys are not those that the roster has for the site.
        UnknownRecipientError: the roster has no such site.
    """
    name = to
    if SITE_NAME.fullmatch(to) is None:
        if not Path(to).is_file():
            remedy = "Give the site's name in the roster, or the path of its .public.yaml"
            raise ConfigError("is neither a site's name nor a file", where=f"--to {to}", remedy=remedy)
        announced = read_announcement(Path(to))
        name = announced.site
        if member.keys_to(name) != announced.keys:
            what = f"holds other keys than the pinned roster has for {name}"
            raise RosterError(what, where=to, remedy="Ask that site by telephone which fingerprint is its own")
    if name == member.site:
        raise ConfigError("is this site itself", where=f"--to {to}", remedy="Name another site of the roster")
    member.keys_to(name)
    return name


def recall(site: Site, member: Membership, recipient: str) -> bytes:
    """A sealed, signed and numbered request to a site: to remove every vector of this site, and to import none of them.

    Raises UnknownRecipientError if the site is not in the roster. The policy's targets do not matter: a site that may
    receive no vector any longer still gets the recall.
    """
    keys = member.keys_to(recipient)
    context = _without_model(member, site.name, recipient)
    sealed = seal(RECALL, context, next_sequence(site.state), member.identity, keys)
    sha256 = hashlib.sha256(sealed).hexdigest()
    site.audit.append(Event("vector.recall", "allowed", BY_FILE, recipient, sha256, len(sealed)))
    return sealed


def sent_order(path: Path) -> int:
    """The number that a file states, to import a sender's older ones first; 0 if it is no envelope."""
    try:
        return read_stated(_content(path), "envelope")[1]
    except EnvelopeError:
        return 0


def import_file(site: Site, member: Membership, recipe: Recipe, path: Path, now: datetime | None = None) -> Imported:
    """Check a vector or a recall that came as a file, with the checks of a run, and keep the one or obey the other.

    ``recipe`` says of which model and sharing the vector must be; its own recipe is what its sender states.

    Raises:
        EnvelopeError: the first check that failed; nothing is kept.
        VectorError: no vector of this model and sharing, or a longer one than the site's ``max_vector_norm``.
        StorageError: it cannot be written.
    """
    now = now or datetime.now(UTC)
    known, _ = kept_vectors.kept(site, member.roster, now)
    envelope = _content(path)
    line = opening(envelope, BY_FILE, "")
    try:
        stated, _ = read_stated(envelope, "envelope")
        line = opening(envelope, BY_FILE, stated.sender)
        expected = _expected(site, member, recipe, stated)
        opened = open_once(site, member, expected, envelope)
        if expected.m0_sha256 == _NO_MODEL:
            found = _obeyed(site, expected, opened)
        else:
            read = received(recipe, member, expected, opened, site.file.max_vector_norm, now)
            found = _kept(site, read, known, now)
    except VectorError as error:
        site.audit.append(replace(line, decision="refused", reason=type(error).__name__))
        remedy = error.remedy or (_CONFIG if isinstance(error, _OF_ANOTHER_RECIPE) else None)
        raise type(error)(error.what, where=f"{path}: {error.where}", remedy=remedy) from error
    site.audit.append(line)
    return found


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise MalformedEnvelopeError("there is no such file", where=path, remedy="Give the file that came by mail")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise MalformedEnvelopeError(f"cannot be read ({error.strerror})", where=path) from error
    if len(content) > MOST_BYTES:
        raise MalformedEnvelopeError("is too large for a vector", where=path)
    return content


def _expected(site: Site, member: Membership, recipe: Recipe, stated: Context) -> Context:
    plain = _without_model(member, stated.sender, site.name)
    if {stated.m0_sha256, stated.architecture, stated.recipe_sha256} == {_NO_MODEL}:
        return plain
    if re.fullmatch("[0-9a-f]{64}", stated.recipe_sha256) is None:
        raise MalformedEnvelopeError("its recipe's digest is none", where="envelope")
    expected = context_of(recipe, member.roster.federation, BY_FILE, stated.sender, site.name)
    return replace(expected, recipe_sha256=stated.recipe_sha256)


def _obeyed(site: Site, context: Context, opened: Opened) -> Imported:
    if opened.plain != RECALL:
        raise VectorFileError("is about no model, and is no recall", where=f"envelope of {context.sender}")
    removed = kept_vectors.remove(site, context.sender, "its sender has recalled it")
    return Imported(context.sender, None, removed)


def _kept(site: Site, found: Received, known: Iterable[KeptVector], now: datetime) -> Imported:
    record, where = found.record, f"envelope of {found.record.sender}"
    if record.until is not None and record.until <= now:
        remedy = "Ask its sender for a new one"
        raise StaleEnvelopeError(f"its sender let it be kept until {record.until:%Y-%m-%d}", where=where, remedy=remedy)
    if any((one.fingerprint, one.sequence) == (record.fingerprint, record.sequence) for one in known):
        raise ReplayedEnvelopeError("is kept already", where=where, remedy="See 'fedsteph vectors list'")
    kept_vectors.keep(site, record, found.vector_file)
    return Imported(record.sender, record)


def _without_model(member: Membership, sender: str, recipient: str) -> Context:
    return Context(member.roster.federation, BY_FILE, sender, recipient, _NO_MODEL, _NO_MODEL, _NO_MODEL)
