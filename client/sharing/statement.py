"""What an envelope holds: a vector, with what its sender states about it, or the recall of earlier vectors.

    label || uint16 len(statement) || statement, as canonical JSON || zeros up to 256 bytes || vector file

All of it is sealed: only the recipient reads it. The front always has 256 bytes, so no length tells what it says.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from fedsteph.common.config.digest import canonical
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.config.require import require
from fedsteph.common.config.schema import build
from fedsteph.common.errors import ConfigError, OtherRosterError, VectorFileError

FRONT = 256  # bytes before the vector file
RECALL = b"fedsteph/v1/recall\n"  # as a whole content: keep no vector of this sender any longer
_VECTOR = b"fedsteph/v1/vector\n"
_START = len(_VECTOR) + 2
_WORD = re.compile("[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}")


@dataclass(frozen=True)
class Statement:
    """What a sender states about its vector; nobody can check it. ValueError if a value is out of range.

    Args:
        epsilon: of the training, rounded up to two digits; None without differential privacy.
        delta: of this epsilon, rounded up to one digit: the exact one would tell the number of patients.
        encoder: of the features, as ``magnification`` and ``patch_size``; None where the files do not say.
        roster: the first 32 digits of the digest of the sender's roster, where it accepts additions in a run: whoever
            signs two different additions cannot make two sites believe that they have the same roster.
    """

    epsilon: float | None
    delta: float | None
    encoder: str | None
    magnification: float | None
    patch_size: float | None
    roster: str | None = None

    def __post_init__(self) -> None:
        known = self.roster is None or re.fullmatch("[0-9a-f]{32}", self.roster) is not None
        require(known, "roster", "32 hexadecimal digits, or null")
        require((self.epsilon is None) == (self.delta is None), "epsilon and delta", "both a number, or both null")
        require(self.epsilon is None or 0 <= self.epsilon <= 1e6, "epsilon", "0 to 1000000, or null")
        require(self.delta is None or 0 < self.delta < 1, "delta", "above 0 and below 1, or null")
        known = self.encoder is None or _WORD.fullmatch(self.encoder) is not None
        require(known, "encoder", f"a word like {_WORD.pattern}, or null")
        for key in ("magnification", "patch_size"):
            size = getattr(self, key)
            require(size is None or 0 < size <= 65_536, key, "above 0 and at most 65536, or null")

    def require_roster(self, digest: str, where: str) -> None:
        """Raise OtherRosterError if the sender states another roster than the one with this digest."""
        if self.roster not in (None, digest[:32]):
            what = f"its sender has the roster {self.roster}..., and this site {digest[:32]}..."
            remedy = "Somebody signed two: tell all sites by telephone, agree on one, and pin it"
            raise OtherRosterError(what, where=where, remedy=remedy)

    @property
    def extraction(self) -> Extraction:
        """How the features behind the vector were made."""
        return Extraction(self.encoder, self.magnification, self.patch_size)


def vector_content(statement: Statement, vector_file: bytes) -> bytes:
    """The content of an envelope that brings a vector."""
    said = canonical({key: value for key, value in asdict(statement).items() if key != "roster" or value is not None})
    front = _VECTOR + len(said).to_bytes(2, "big") + said
    return front.ljust(FRONT, b"\0") + vector_file


def read_content(content: bytes, where: str) -> tuple[Statement, bytes]:
    """The statement and the vector file in the untrusted content of an envelope.

    Raises VectorFileError if it is of another kind or form.
    """
    if not content.startswith(_VECTOR) or len(content) < FRONT:
        raise VectorFileError("holds no vector with its sender's statement", where=where)
    end = _START + int.from_bytes(content[len(_VECTOR) : _START], "big")
    said, padding = content[_START:end], content[end:FRONT]
    try:
        found = json.loads(said)
        if end > FRONT or padding.strip(b"\0") or canonical(found) != said:
            raise ValueError("another form")
        return build(Statement, found, where), content[FRONT:]
    except (ValueError, RecursionError, ConfigError):
        raise VectorFileError("its sender's statement is not of this version's form", where=where) from None
