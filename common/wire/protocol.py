"""The protocol: its actions, and how their messages (:mod:`fedsteph.common.wire.messages`) travel in Flower's records.

A message is one ``ConfigRecord`` with a JSON body, whose fields are exactly those of its dataclass, and, for
``train.share``, ``train.merge`` and ``train.average``, one ``ArrayRecord`` of bytes, which Flower sends in chunks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, ProtocolError, SiteError
from fedsteph.common.wire.messages import MAX_ENVELOPES, Refusal

VERSION = 2
HELLO = "query.hello"
LOCAL = "train.local"
AVERAGE = "train.average"
SHARE = "train.share"
MERGE = "train.merge"

_HEADER = "fedsteph"
_ENVELOPES = "envelopes"
_MAX_BODY = 1 << 20  # characters; ours take a few thousand
_MAX_ENVELOPE = 256 << 20  # bytes; a vector of the default sizes takes 4.7 MB
MAX_TOTAL = 1 << 30  # bytes of one message
_OPAQUE = "fedsteph.opaque"

T = TypeVar("T")


def _short_line(text: str) -> str:
    """What may be shown of a text that another party can choose."""
    return "".join(character if character.isprintable() else "?" for character in text[:120])


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
    """Put a message of this module, and its envelopes, into Flower's records."""
    kind = type(message).__name__
    body = json.dumps({kind: asdict(message)}, allow_nan=False, separators=(",", ":"))
    records = RecordDict({_HEADER: ConfigRecord({"version": VERSION, "body": body})})
    if envelopes:
        arrays = {
            name: Array(dtype="uint8", shape=(len(content),), stype=_OPAQUE, data=content)
            for name, content in envelopes.items()
        }
        records[_ENVELOPES] = ArrayRecord(arrays)
    return records


def parcel(records: RecordDict, where: str) -> Parcel:
    """Take a record apart without reading its body or its envelopes.

    Raises:
        ProtocolError: records, version or sizes that the protocol does not have.
    """
    header = records.get(_HEADER)
    if not isinstance(header, ConfigRecord) or not set(records) <= {_HEADER, _ENVELOPES}:
        raise ProtocolError("is not a fedsteph message", where=where)
    if header.get("version") != VERSION:
        version = header.get("version")
        raise ProtocolError(
            f"speaks protocol version {version if isinstance(version, int) else 'none'}, this software {VERSION}",
            where=where,
            remedy="Install the same fedsteph at all sites and at the server",
        )
    body, arrays = header.get("body"), records.get(_ENVELOPES, ArrayRecord())
    if (
        set(header) != {"version", "body"}
        or not isinstance(body, str)
        or len(body) > _MAX_BODY
        or not isinstance(arrays, ArrayRecord)
    ):
        raise ProtocolError("has a malformed body", where=where)
    if not all(array.dtype == "uint8" and array.stype == _OPAQUE for array in arrays.values()):
        raise ProtocolError("holds arrays that are no envelopes", where=where)
    sizes = [len(array.data) for array in arrays.values()]
    if len(sizes) > MAX_ENVELOPES or max(sizes, default=0) > _MAX_ENVELOPE or sum(sizes) > MAX_TOTAL:
        raise ProtocolError("holds too many or too large envelopes", where=where)
    return Parcel(body, {name: array.data for name, array in arrays.items()})


def read(content: Parcel, cls: type[T], where: str) -> T:
    """Read a parcel's body as the message ``cls``.

    Raises:
        SiteError: it is a site's refusal; the text is the fixed phrase of its kind.
        ProtocolError: it is neither.
    """
    try:
        body = json.loads(content.body)
        kind, fields = next(iter(body.items())) if isinstance(body, dict) and len(body) == 1 else ("", {})
        if kind == cls.__name__:
            return build(cls, fields, where)
        refusal = build(Refusal, fields, where) if kind == Refusal.__name__ else None
    except (ValueError, RecursionError, ConfigError) as error:
        # What is wrong with it can be the other party's own words: for this party's log, not for its sentence.
        detail = error.what if isinstance(error, ConfigError) else str(error)
        what = f"its body is not a {cls.__name__}"
        raise ProtocolError(what, where=where, details=_short_line(detail)) from error
    if refusal is None:
        raise ProtocolError(f"expected a {cls.__name__}", where=where)
    raise SiteError(refusal.phrase, where=refusal.site or where)
