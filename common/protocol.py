"""The protocol: four actions, their typed bodies, and how they travel in Flower's records.

A message is one ``ConfigRecord`` with a JSON body, whose fields are exactly those of a dataclass below, and,
for ``train.share`` and ``train.merge``, one ``ArrayRecord`` of opaque bytes, which Flower sends in chunks.
Whatever a site answers is listed here field by field: nothing else leaves it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.config import SITE_NAME, Recipe
from common.errors import ConfigError, FedstephError, ProtocolError, SiteError
from common.schema import build

VERSION = 1
HELLO = "query.hello"
LOCAL = "train.local"
SHARE = "train.share"
MERGE = "train.merge"

_HEADER = "fedsteph"
_ENVELOPES = "envelopes"
_BAND = re.compile(r"below 10|([1-9]\d{0,6})0-(?:\1)9")
_MAX_BODY = 1 << 20  # characters; ours take a few thousand
_MAX_ENVELOPES = 1000
_MAX_ENVELOPE = 256 << 20  # bytes; a vector of the default sizes takes 4.7 MB
_OPAQUE = "fedsteph.opaque"

T = TypeVar("T")


def _require_short_line(text: str) -> None:
    if len(text) > 120 or not text.isprintable():
        raise ValueError("its text must be one printable line of at most 120 characters")


def _short_line(text: str) -> str:
    """What may be shown of a text that another party can choose."""
    return "".join(character if character.isprintable() else "?" for character in text[:120])


def _require_band(text: str) -> None:
    # Sent by mistake, an exact count would be refused here by the site itself.
    if _BAND.fullmatch(text) is None:
        raise ValueError("a count must be a band of ten, like 30-39")


@dataclass(frozen=True)
class RunId:
    """Names one run of one federation in every request."""

    federation: str
    run: str

    def __post_init__(self) -> None:
        if SITE_NAME.fullmatch(self.federation) is None or re.fullmatch("[0-9a-z-]{1,64}", self.run) is None:
            raise ValueError("the federation's or the run's name is none")


@dataclass(frozen=True)
class Hello:
    """``query.hello``: who is there?"""

    id: RunId


@dataclass(frozen=True)
class HelloReply:
    """What the coordinator needs to refuse a mismatch by name, and no more."""

    site: str
    software: str
    encoder: str | None
    width: int

    def __post_init__(self) -> None:
        # The server prints these, so a site must not be able to write whatever it likes there.
        if SITE_NAME.fullmatch(self.site) is None:
            raise ValueError(f"site must be a name like {SITE_NAME.pattern}")
        for text in (self.software, self.encoder or ""):
            _require_short_line(text)
        if not 1 <= self.width <= 65_536:
            raise ValueError("width must be 1 to 65536")


@dataclass(frozen=True)
class TrainLocal:
    """``train.local``: train from M0; a target trains every fold, a source its fold 0 only."""

    id: RunId
    recipe: Recipe
    every_fold: bool


@dataclass(frozen=True)
class TrainLocalReply:
    """The training is done and its vector lies at the site; sizes in bands of 10."""

    patients: str
    events: str

    def __post_init__(self) -> None:
        _require_band(self.patients)
        _require_band(self.events)


@dataclass(frozen=True)
class Share:
    """``train.share``: one envelope for each of these targets, please."""

    id: RunId
    recipe: Recipe
    recipients: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.recipients)) != len(self.recipients) or len(self.recipients) > _MAX_ENVELOPES:
            raise ValueError(f"recipients must be at most {_MAX_ENVELOPES} different names")


@dataclass(frozen=True)
class ShareReply:
    """The envelopes are in the array record, named by recipient."""


@dataclass(frozen=True)
class Merge:
    """``train.merge``: the envelopes for this target, named by sender in the array record."""

    id: RunId
    recipe: Recipe
    max_vector_norm: float


@dataclass(frozen=True)
class MergeReply:
    """Mean C-index per method to two decimals (null where undefined), and sizes in bands of 10.

    ``refused`` names the sources whose vectors the target did not accept.
    """

    patients: str
    events: str
    refused: tuple[str, ...]
    local: float | None
    model_average: float | None
    steph: float | None
    deployed: float | None

    def __post_init__(self) -> None:
        _require_band(self.patients)
        _require_band(self.events)
        if not all(SITE_NAME.fullmatch(name) for name in self.refused):
            raise ValueError(f"refused must be names like {SITE_NAME.pattern}")
        for value in (self.local, self.model_average, self.steph, self.deployed):
            if value is not None and not (0 <= value <= 1 and round(value, 2) == value):
                raise ValueError("a C-index must be 0 to 1 with two decimals, or null")


@dataclass(frozen=True)
class Refusal:
    """A site's error, as the coordinator may know it: a class of error, its fixed phrase, and whose it is."""

    kind: str
    reason: str
    site: str | None = None

    def __post_init__(self) -> None:
        _require_short_line(self.kind)
        _require_short_line(self.reason)
        if self.site is not None and SITE_NAME.fullmatch(self.site) is None:
            raise ValueError(f"site must be a name like {SITE_NAME.pattern}")

    @classmethod
    def of(cls, error: BaseException, site: str | None = None) -> Refusal:
        """The public side of an error; an unforeseen one gives its own text to nobody."""
        if isinstance(error, FedstephError):
            return cls(type(error).__name__, error.public_reason, site)
        return cls("InternalError", "an unforeseen error happened at the site; its log has the details", site)


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
        raise ProtocolError(
            f"speaks protocol version {_short_line(repr(header.get('version')))}, this software {VERSION}",
            where=where,
            remedy="Install the same fedsteph at all sites and at the server",
        )
    body, arrays = header.get("body"), records.get(_ENVELOPES, ArrayRecord())
    if not isinstance(body, str) or len(body) > _MAX_BODY or not isinstance(arrays, ArrayRecord):
        raise ProtocolError("has a malformed body", where=where)
    if not all(array.dtype == "uint8" and array.stype == _OPAQUE for array in arrays.values()):
        raise ProtocolError("holds arrays that are no envelopes", where=where)
    if len(arrays) > _MAX_ENVELOPES or any(len(array.data) > _MAX_ENVELOPE for array in arrays.values()):
        raise ProtocolError("holds too many or too large envelopes", where=where)
    return Parcel(body, {name: array.data for name, array in arrays.items()})


def read(content: Parcel, cls: type[T], where: str) -> T:
    """Read a parcel's body as the message ``cls``.

    Raises:
        SiteError: it is a site's refusal; the text is the site's fixed phrase.
        ProtocolError: it is neither.
    """
    try:
        body = json.loads(content.body)
        kind, fields = next(iter(body.items())) if isinstance(body, dict) and len(body) == 1 else ("", {})
        if kind == cls.__name__:
            return build(cls, fields, where)
        refusal = build(Refusal, fields, where) if kind == Refusal.__name__ else None
    except (ValueError, RecursionError, ConfigError) as error:
        raise ProtocolError(f"its body is not a {cls.__name__}: {_short_line(str(error))}", where=where) from error
    if refusal is None:
        raise ProtocolError(f"expected a {cls.__name__}", where=where)
    raise SiteError(f"{refusal.reason} ({refusal.kind})", where=refusal.site or where)


def band(count: int) -> str:
    """A count as the band of 10 that it lies in: 37 -> '30-39'; fewer than 10 -> 'below 10'."""
    low = count // 10 * 10
    return f"{low}-{low + 9}" if low else "below 10"
