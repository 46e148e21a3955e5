"""The messages between server and sites, as dataclasses that check their fields; a site sends no other fields."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

from fedsteph.common.config.digest import canonical
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.recipe import Recipe
from fedsteph.common.config.require import require
from fedsteph.common.config.run_config import SITE_NAME, require_cancer, require_name
from fedsteph.common.errors import FedstephError, StorageError, public_phrases
from fedsteph.common.trust.signed_roster import SignedRoster
from fedsteph.common.wire.letters import MOST_LETTERS, Letter

_BAND = re.compile("below ([1-9][0-9]{0,4}0)|([1-9][0-9]{0,6}0)-([1-9][0-9]{0,7}9)")
_HEX = re.compile(r"[0-9a-f]{64}")
_UNFORESEEN = {"InternalError": "an unforeseen error happened at the site; its log has the details"}
_WORD = re.compile("[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}")
_HELLO_LABEL = b"fedsteph/v1/hello\n"


def _require_short_line(text: str) -> None:
    require(len(text) <= 120 and text.isprintable(), "its text", "one printable line of at most 120 characters")


def _require_band(text: str | None) -> None:
    # The sending site runs this check too, so that it cannot send an exact count by mistake.
    found = None if text is None else _BAND.fullmatch(text)
    if text is None or (found and found[1]):
        return
    low, width = (int(found[2]), int(found[3]) - int(found[2]) + 1) if found else (0, 0)
    if width < 10 or width % 10 or low % width:
        raise ValueError("a count must be a band of ten or a multiple of it, like 30-39, or null")


@dataclass(frozen=True)
class RunId:
    """Identifies the federation, the run and the roster; part of every request."""

    federation: str
    run: str
    roster_sha256: str

    def __post_init__(self) -> None:
        if SITE_NAME.fullmatch(self.federation) is None or re.fullmatch("[0-9a-z-]{1,64}", self.run) is None:
            raise ValueError("the federation's or the run's name is none")
        require(_HEX.fullmatch(self.roster_sha256) is not None, "roster_sha256", "64 hexadecimal digits")


@dataclass(frozen=True)
class Refusal:
    """A site's error as sent to the coordinator: error class, fixed phrase, and the site that it is about."""

    kind: str
    reason: str
    site: str | None = None

    def __post_init__(self) -> None:
        _require_short_line(self.kind)
        _require_short_line(self.reason)
        if self.site is not None:
            require_name(self.site)

    @classmethod
    def of(cls, error: BaseException, site: str | None = None) -> Refusal:
        """The public part of an error; the text of an unforeseen error stays at the site."""
        if isinstance(error, FedstephError):
            return cls(error.public_kind or type(error).__name__, error.public_reason, site)
        if isinstance(error, OSError):
            return cls(StorageError.__name__, StorageError.public_reason, site)
        return cls("InternalError", _UNFORESEEN["InternalError"], site)

    @property
    def phrase(self) -> str:
        """The server's text for this kind of error; the sender's text is never shown."""
        known = (public_phrases() | _UNFORESEEN).get(self.kind)
        return "it refused for a reason that this version does not know" if known is None else f"{known} ({self.kind})"


def _require_named(refusals: tuple[Refusal, ...]) -> None:
    if any(refusal.site is None for refusal in refusals) or len(refusals) > MOST_LETTERS:
        raise ValueError("refused must say whom")


@dataclass(frozen=True)
class Hello:
    """``query.hello``: asks a site to identify itself.

    ``roster``: the run's, where the coordinator signs rosters, for sites that accept additions.
    """

    id: RunId
    roster: SignedRoster | None = None


@dataclass(frozen=True)
class HelloReply:
    """A site's identity, and the settings that the server compares with the federation's.

    ``audit``, the hash of the site's latest audit line, is recorded, so that a rewritten log can be detected.
    ``cancer`` is what the site file states; it must be the roster's.
    ``roster_chain`` says which rosters it has accepted (:attr:`SignedRoster.chain_digest`); null: it pins one.
    ``signature`` (Ed25519, hexadecimal) proves that the site of that name in the roster has answered.
    """

    site: str
    software: str
    encoder: str | None
    magnification: float | None
    patch_size: float | None
    width: int
    audit: str
    signature: str
    cancer: str | None = None
    roster_chain: str | None = None

    def __post_init__(self) -> None:
        # The server prints these fields, so a site must not be able to send arbitrary text in them.
        require_name(self.site)
        require_cancer(self.cancer)
        for text in (self.software, self.encoder):
            known = text is None or _WORD.fullmatch(text) is not None
            require(known, "software and encoder", f"words like {_WORD.pattern}")
        for key in ("magnification", "patch_size", "width"):
            size = getattr(self, key)
            require(size is None or 0 < size <= 65_536, key, "above 0, at most 65536")
        if _HEX.fullmatch(self.audit) is None or re.fullmatch("[0-9a-f]{128}", self.signature) is None:
            raise ValueError("audit must be 64 and signature 128 hexadecimal digits")
        known = self.roster_chain is None or _HEX.fullmatch(self.roster_chain) is not None
        require(known, "roster_chain", "64 hexadecimal digits, or null")

    @property
    def extraction(self) -> Extraction:
        """How the site's features were made, as far as its files state it."""
        return Extraction(self.encoder, self.magnification, self.patch_size)

    def signed_bytes(self, run: RunId, node: int) -> bytes:
        """The bytes that the signature covers: this reply, the run, and the Flower node's id."""
        content = asdict(self) | asdict(run) | {"node": node}
        del content["signature"]
        return _HELLO_LABEL + canonical(content)


@dataclass(frozen=True)
class TrainLocal:
    """``train.local``: train from M0; a target trains all folds, a source only its fold 0."""

    id: RunId
    recipe: Recipe
    every_fold: bool


@dataclass(frozen=True)
class TrainLocalReply:
    """Training is done; the vector stays at the site. Sizes are bands, or null if the policy does not share them."""

    patients: str | None
    events: str | None

    def __post_init__(self) -> None:
        _require_band(self.patients)
        _require_band(self.events)


@dataclass(frozen=True)
class Average:
    """``train.average``: one round of FedAvg or FedProx, with the global encoder of each fold in the array record.

    Round 0 has no encoders and starts from M0. The message after the last round delivers the final ones.
    """

    id: RunId
    recipe: Recipe
    method: Literal["fedavg", "fedprox"]
    round: int
    max_vector_norm: float

    def __post_init__(self) -> None:
        require(self.method in self.recipe.comparators.methods, "method", "one that the recipe asks for")
        known = 0 <= self.round <= self.recipe.comparators.rounds
        require(known, "round", "one of the recipe's, or the one after them")

    @property
    def is_last(self) -> bool:
        """Whether this message delivers the result and asks for no training."""
        return self.round == self.recipe.comparators.rounds


@dataclass(frozen=True)
class AverageReply:
    """The site's encoder per fold is in the array record, unsealed; ``weight`` is the rounded number of patients."""

    weight: int

    def __post_init__(self) -> None:
        require(10 <= self.weight <= 10_000_000 and self.weight % 10 == 0, "weight", "a multiple of ten")


@dataclass(frozen=True)
class Share:
    """``train.share``: asks for one envelope for each of these targets."""

    id: RunId
    recipe: Recipe
    recipients: tuple[str, ...]

    def __post_init__(self) -> None:
        fits = len(set(self.recipients)) == len(self.recipients) <= MOST_LETTERS
        require(fits, "recipients", f"at most {MOST_LETTERS} different names")


@dataclass(frozen=True)
class ShareReply:
    """The envelopes are in the array record, named by recipient; ``refused`` has the recipients refused, and why."""

    refused: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        _require_named(self.refused)


@dataclass(frozen=True)
class Deliver:
    """``train.deliver``: envelopes for this target ahead of its merge, in the array record, named by sender.

    One without envelopes ends the delivery: the target removes what it was delivered in this run.
    """

    id: RunId
    recipe: Recipe


@dataclass(frozen=True)
class DeliverReply:
    """The envelopes lie in the target's inbox, or the inbox is removed."""


@dataclass(frozen=True)
class Merge:
    """``train.merge``: merge the vectors in these ``letters``, all that there are for this target.

    An envelope that was not delivered before is in the array record, named by sender.
    """

    id: RunId
    recipe: Recipe
    max_vector_norm: float
    reuse: bool = False  # whether to merge vectors kept from earlier runs too, if the target's site file agrees
    letters: tuple[Letter, ...] = ()

    def __post_init__(self) -> None:
        senders = {letter.sender for letter in self.letters}
        fits = len(senders) == len(self.letters) <= MOST_LETTERS
        require(fits, "letters", f"at most {MOST_LETTERS}, each of another sender")


@dataclass(frozen=True)
class Score:
    """One method's mean C-index to two decimals; null if undefined or not shared by the policy."""

    method: str
    c_index: float | None

    def __post_init__(self) -> None:
        require(self.method in METHODS, "a score", "of a method that this version knows")
        value = self.c_index
        fits = value is None or (0 <= value <= 1 and round(value, 2) == value)
        require(fits, "a C-index", "0 to 1 with two decimals, or null")


@dataclass(frozen=True)
class MergeReply:
    """A score per method and sizes as bands, or null.

    ``refused``: the sources whose vectors it refused, and why; ``kept``: those whose vectors came in an earlier run.
    """

    patients: str | None
    events: str | None
    refused: tuple[Refusal, ...]
    scores: tuple[Score, ...]
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.kept:
            require_name(name)
        require(len({*self.kept}) == len(self.kept), "kept", "each name once")
        _require_band(self.patients)
        _require_band(self.events)
        _require_named(self.refused)
        methods = [score.method for score in self.scores]
        if len(set(methods)) != len(methods):
            raise ValueError("scores must have each method once")


def band(count: int, width: int = 10) -> str:
    """The band of a count, so that exact counts are not sent: 37 -> '30-39'; less than ``width`` -> 'below 10'."""
    low = count // width * width
    return f"{low}-{low + width - 1}" if low else f"below {width}"
