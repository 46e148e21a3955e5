"""Records the total privacy cost of a site's shared vectors: one entry per training, written before its result leaves.

Sending the same vector again, to another site or after a crash, costs nothing more, because a second copy reveals
nothing new. A training without differential privacy has no bound, and after it the total has none either.

The ledger is a JSON file beside the audit log. For each spending, the audit log records the ledger's SHA-256. So an
older copy of the ledger, or a removed entry, is detected before anything more is shared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedsteph.client.privacy.accounting import Mechanism, epsilon
from fedsteph.common.config.schema import build
from fedsteph.common.errors import BudgetPolicyError, ConfigError, LedgerError
from fedsteph.common.host import atomic
from fedsteph.common.host.checked_file import KEY
from fedsteph.common.host.lock import exclusive
from fedsteph.common.trust.audit_log import AuditLog, Event, read_lines

FILE = "privacy-ledger.json"
_FORMAT = "fedsteph/ledger/v1"
_SPENT = "privacy.spend"
_SENT = ("vector.seal", "update.send")
_UNPROTECTED = "a vector left that was trained without differential privacy"
_RESTORED = "(restore)"  # in the place of a run
_REMEDY = "Put the true file back from a backup; nothing is shared until it fits the audit log"


@dataclass(frozen=True)
class Entry:
    """One training whose result leaves the site; without differential privacy it has no mechanism and no delta."""

    time: str  # ISO 8601, UTC
    run: str  # the federation's run in which the result first left
    training: str  # digest that identifies the training; it reveals nothing about the patients
    mechanism: Mechanism | None  # how it was trained
    delta: float | None  # of its epsilon
    # that the site answers for, with delta, where nobody knows what left: after a restore; null: see mechanism
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None and not (self.mechanism is None and 0 <= self.epsilon < math.inf):
            raise ValueError("epsilon must be at least 0, and stands in the place of a mechanism")

    @classmethod
    def now(cls, run: str, training: str, mechanism: Mechanism | None, delta: float | None) -> Entry:
        """Make an entry with the current time."""
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), run, training, mechanism, delta)

    @classmethod
    def unknown(cls, since: str, epsilon: float | None, delta: float | None) -> Entry:
        """What may have left since a backup: at most ``epsilon`` at ``delta``, or None, without a bound."""
        made = cls.now(_RESTORED, f"unknown spending since {since}", None, delta)
        return replace(made, epsilon=epsilon)


@dataclass(frozen=True)
class Total:
    """Cost of all sharings together: ``epsilon`` (infinite if one has no bound) at ``delta``, over ``trainings``.

    ``unknown``: after a restore nobody knows what left, and nobody has answered for it.
    """

    epsilon: float
    delta: float | None
    trainings: int
    unknown: bool = False

    def __str__(self) -> str:
        if self.trainings == 0:
            return "nothing was shared yet"
        if math.isinf(self.epsilon):
            left = "nobody knows what left before a restore" if self.unknown else _UNPROTECTED
            return f"no bound: {left}"
        if self.delta is None:
            return f"epsilon {self.epsilon:.2f}"
        return f"epsilon {self.epsilon:.2f} at delta {coarse(self.delta)}"


def coarse(value: float, digits: int = 1) -> str:
    """A delta or an epsilon rounded up to so many digits, because the exact one would reveal the number of patients."""
    power = math.floor(math.log10(value)) - digits + 1
    return f"{math.ceil(round(value / 10.0**power, 9)):d}e{power:d}"


def total(entries: Sequence[Entry]) -> Total:
    """Cost of all entries together, composed by the accountant at the smallest of their deltas.

    What the site answers for itself is added to it, epsilon and delta each.
    """
    mechanisms = [entry.mechanism for entry in entries if entry.mechanism is not None]
    deltas = [entry.delta for entry in entries if entry.mechanism is not None and entry.delta is not None]
    told = [entry for entry in entries if entry.epsilon is not None]
    delta = min(deltas, default=None)
    if len(mechanisms) + len(told) < len(entries) or (mechanisms and delta is None):
        unknown = any(entry.run == _RESTORED and entry.epsilon is None for entry in entries)
        return Total(math.inf, delta, len(entries), unknown)
    cost = epsilon(mechanisms, delta) if delta is not None else 0.0
    together = (delta or 0.0) + sum(entry.delta or 0.0 for entry in told)
    return Total(cost + sum(entry.epsilon or 0.0 for entry in told), together or None, len(entries))


class Ledger:
    """A site's ledger, beside its audit log; several processes may use it at once."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._path = audit.folder / FILE

    def entries(self) -> list[Entry]:
        """All entries, oldest first; sharings from before the ledger existed count as one entry without a bound.

        Raises:
            LedgerError: the file is damaged, or does not match the audit log.
        """
        return _parsed(self._checked(), self._path) or self._earlier()

    def spend(self, entry: Entry, budget: float | None) -> None:
        """Add an entry, once per training, before its result leaves.

        Args:
            budget: largest epsilon of all sharings together; None: no limit.

        Raises:
            BudgetPolicyError: with this entry, the total would exceed the budget.
            LedgerError: as :meth:`entries`.
        """
        with exclusive(self._path.with_suffix(".lock"), wait=True):
            before = self.entries()
            if before and not self._path.exists():
                atomic.write_bytes(self._path, _encoded(before))
            if before:
                self._note(entry.run)  # the audit line of the last spending, if a crash prevented it
            known = any(one.training == entry.training for one in before)
            after = before if known else [*before, entry]
            require_within(after, budget, self._path)
            if not known:
                atomic.write_bytes(self._path, _encoded(after))
                # After the file, so that a crash in between leaves an entry too many, never one too few.
                self._note(entry.run)

    def _note(self, run: str) -> None:
        content = self._path.read_bytes()
        if self._audited() != _sha256(content):
            together = str(total(_parsed(content, self._path)))
            self._audit.append(Event(_SPENT, "allowed", run, artefact=_sha256(content), reason=together))

    def _earlier(self) -> list[Entry]:
        for line in read_lines(self._audit.folder):
            if line.event.event in _SENT and line.event.decision == "allowed":
                return [Entry(line.time, line.event.run or "", "before there was a ledger", None, None)]
        return []

    def _audited(self) -> str | None:
        lines = [line.event for line in read_lines(self._audit.folder) if line.event.event == _SPENT]
        return lines[-1].artefact if lines else None

    def _checked(self) -> bytes:
        audited = self._audited()  # read before the file: an entry added in between is accepted below
        content = self._path.read_bytes() if self._path.exists() else b""
        if not content and audited is None:
            return content
        if content:
            # After a crash, the file may have one entry more than the audit log knows.
            one_less = _parsed(content, self._path)[:-1]
            before = {_sha256(_encoded(one_less)), _sha256(_plain(one_less))} if one_less else {None}
            if audited in {_sha256(content), *before}:
                return content
        what = "is not the one in the audit log" if content else "is missing, though the audit log knows of one"
        raise LedgerError(what, where=self._path, remedy=_REMEDY)


def read_entries(folder: Path) -> list[Entry]:
    """The entries of the ledger in an audit folder, not compared with the audit log. LedgerError: it is damaged."""
    path = folder / FILE
    return _parsed(path.read_bytes(), path) if path.exists() else []


def require_within(entries: Sequence[Entry], budget: float | None, where: Path) -> None:
    """Check that all entries together cost at most ``budget``; None: no limit.

    Raises:
        BudgetPolicyError: they cost more.
    """
    if budget is None:
        return
    cost = total(entries)
    if cost.epsilon > budget:
        raise BudgetPolicyError(
            f"with this vector, all that was shared costs {cost}; the budget is epsilon {budget:g}",
            where=where,
            remedy="Share less often, train with more noise, or raise policy.epsilon_budget if you can answer for it",
        )


def _encoded(entries: Sequence[Entry]) -> bytes:
    return _text({**json.loads(_plain(entries)), KEY: _sha256(_plain(entries))})


def _plain(entries: Sequence[Entry]) -> bytes:
    """As earlier versions wrote it, without its digest."""
    return _text({"format": _FORMAT, "entries": [_plain_entry(one) for one in entries]})


def _plain_entry(entry: Entry) -> dict[str, Any]:
    found = asdict(entry)
    if entry.epsilon is None:
        del found["epsilon"]  # as earlier versions wrote it, whose digests the audit log has
    return found


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _parsed(content: bytes, where: Path) -> list[Entry]:
    if not content:
        return []
    try:
        found: Any = json.loads(content)
        if not {"format", "entries"} <= found.keys() <= {"format", "entries", KEY} or found["format"] != _FORMAT:
            raise ValueError("another format")
        if KEY in found:  # the audit log does not know the last entry yet after a crash
            told = found.pop(KEY)
            if told != _sha256(_text(found)) or content != _text({**found, KEY: told}):
                raise ValueError("another digest")
        return [build(Entry, fields, where) for fields in found["entries"]]
    except (ValueError, AttributeError, TypeError, RecursionError, ConfigError) as error:
        raise LedgerError("is damaged", where=where, remedy=_REMEDY) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
