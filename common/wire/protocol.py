"""Packs messages (:mod:`fedsteph.common.wire.messages`) into Flower's records and reads them back, phase by phase.

A message is one ``ConfigRecord`` with a JSON body, whose fields are exactly those of its dataclass. ``train.share``,
``train.deliver``, ``train.merge`` and ``train.average`` add one ``ArrayRecord`` of bytes, which Flower sends in chunks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ProtocolError, SiteError
from fedsteph.common.wire.letters import MOST_ENVELOPE_BYTES, MOST_LETTERS
from fedsteph.common.wire.messages import Refusal

VERSION = 7
# The versions that work together with this one: itself alone. Raise VERSION whenever a message, an envelope or what a
# phase means changes; add an older version here only if all messages of both are read by both, and a test says so.
WORKS_WITH = frozenset({VERSION})
HELLO = "query.hello"
LOCAL = "train.local"
AVERAGE = "train.average"
SHARE = "train.share"
DELIVER = "train.deliver"
MERGE = "train.merge"

_HEADER = "fedsteph"
_ENVELOPES = "envelopes"
_MAX_BODY = 4 << 20  # characters; ours take a few thousand, with the roster or the letters of 1,000 sites 2 million
MAX_TOTAL = 1 << 30  # bytes of one message
_OPAQUE = "fedsteph.opaque"

T = TypeVar("T")


@dataclass(frozen=True)
class Parcel:
    """A message's body as JSON text, and its envelopes by name."""

    body: str
    envelopes: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Size of the contents, without Flower's framing."""
        return len(self.body.encode()) + sum(len(content) for content in self.envelopes.values())


def pack(message: Any, envelopes: Mapping[str, bytes] | None = None) -> RecordDict:
    """Put a message of :mod:`fedsteph.common.wire.messages`, and its envelopes by name, into Flower's records."""
    kind = type(message).__name__
    body = json.dumps({kind: to_dict(message)}, allow_nan=False, separators=(",", ":"))
    records = RecordDict({_HEADER: ConfigRecord({"version": VERSION, "body": body})})
    if envelopes:
        arrays = {
            name: Array(dtype="uint8", shape=(len(content),), stype=_OPAQUE, data=content)
            for name, content in envelopes.items()
        }
        records[_ENVELOPES] = ArrayRecord(arrays)
    return records


def parcel(records: RecordDict, where: str) -> Parcel:
    """Unpack Flower's records, body and envelopes unread. Raises ProtocolError for what the protocol does not have."""
    header = records.get(_HEADER)
    if not isinstance(header, ConfigRecord) or not set(records) <= {_HEADER, _ENVELOPES}:
        raise ProtocolError("is not a fedsteph message", where=where)
    spoke, body, arrays = header.get("version"), header.get("body"), records.get(_ENVELOPES, ArrayRecord())
    if not isinstance(spoke, int) or spoke not in WORKS_WITH:
        raise _other_version(spoke, where)
    if set(header) != {"version", "body"} or not isinstance(body, str) or len(body) > _MAX_BODY:
        raise ProtocolError("has a malformed body", where=where)
    if not isinstance(arrays, ArrayRecord):
        raise ProtocolError("has a malformed body", where=where)
    return Parcel(body, _envelopes(arrays, where))


def spoken() -> str:
    """This software's version and protocol, and what it works with, for people."""
    others = ", ".join(str(one) for one in sorted(WORKS_WITH - {VERSION}))
    return f"fedsteph {version('fedsteph')}, protocol {VERSION}, works with " + (others or "no other version of it")


def _other_version(found: object, where: str) -> ProtocolError:
    known = isinstance(found, int)
    age = f"{'an older' if found < VERSION else 'a newer'} one" if isinstance(found, int) else "none that is known"
    what = f"speaks protocol version {found if known else 'none'}, {age}, and this is {spoken()}"
    remedy = "Install the newer fedsteph at all sites and at the server; docs/deployment.md, 'Upgrade', has the order"
    return ProtocolError(what, where=where, remedy=remedy)


def _envelopes(arrays: ArrayRecord, where: str) -> dict[str, bytes]:
    if not all(array.dtype == "uint8" and array.stype == _OPAQUE for array in arrays.values()):
        raise ProtocolError("holds arrays that are no envelopes", where=where)
    envelopes = {name: array.data for name, array in arrays.items()}
    sizes = [len(content) for content in envelopes.values()]
    if len(sizes) > MOST_LETTERS or max(sizes, default=0) > MOST_ENVELOPE_BYTES or sum(sizes) > MAX_TOTAL:
        raise ProtocolError("holds too many or too large envelopes", where=where)
    return envelopes


def read(content: Parcel, cls: type[T], where: str) -> T:
    """Read a parcel's body as the message ``cls``; errors name ``where``, whose message it is.

    Raises SiteError if it is a site's refusal, with the fixed phrase of its kind; ProtocolError if it is neither.
    """
    try:
        body = json.loads(content.body)
        kind, fields = next(iter(body.items())) if isinstance(body, dict) and len(body) == 1 else ("", {})
        if kind == cls.__name__:
            return build(cls, fields, where)
        refusal = build(Refusal, fields, where) if kind == Refusal.__name__ else None
    except (ValueError, RecursionError, ConfigError) as error:
        # The detail can quote the other party's text: it goes into this party's log, not into the sentence.
        detail = error.what if isinstance(error, ConfigError) else str(error)
        safe = "".join(character if character.isprintable() else "?" for character in detail[:120])
        raise ProtocolError(f"its body is not a {cls.__name__}", where=where, details=safe) from error
    if refusal is None:
        raise ProtocolError(f"expected a {cls.__name__}", where=where)
    raise SiteError(refusal.phrase, where=refusal.site or where)
