"""Keeps the state of one run at the server, and sends its requests: sites, failures, audit log, quorum, outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NoReturn, TypeAlias, TypeVar

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import EngineError, FedstephError, QuorumError, SiteError
from fedsteph.common.trust.audit_log import AuditLog, Event
from fedsteph.common.trust.roster import Roster
from fedsteph.common.trust.signed_roster import SignedRoster
from fedsteph.common.wire import protocol
from fedsteph.common.wire.messages import RunId
from fedsteph.server.exchange import Round, exchange
from fedsteph.server.mail_room import MailRoom
from fedsteph.server.outcome import Failure, Outcome
from fedsteph.server.run_status import StatusFile

T = TypeVar("T")
Envelopes: TypeAlias = Mapping[int, Mapping[str, bytes]]  # those of each node's message, by name
Replies: TypeAlias = dict[int, tuple[T, Mapping[str, bytes]]]  # each node's message and envelopes
_NONE: Envelopes = MappingProxyType({})
OnProgress = Callable[..., None]  # as fedsteph.common.host.progress_log.ProgressLog.report


class Session:
    """The sites of one run over one grid, and what has happened so far.

    ``report`` is called as phases advance, and ``status`` written; ``signed``: the roster with its signature, where the
    coordinator signs them. ``mail`` is where the run's envelopes lie.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        run: str,
        roster: Roster,
        audit: AuditLog,
        report: OnProgress = lambda phase, done, total, message="", party=None: None,
        signed: SignedRoster | None = None,
        status: StatusFile | None = None,
        *,
        mail: MailRoom,
    ) -> None:
        self.grid = grid
        self.config = config
        self.id = RunId(config.federation.name, run, roster.digest)
        self.outcome = Outcome()
        self.roster = roster
        self.mail = mail
        self.signed = signed
        self.report = report
        self.status = status or StatusFile(None)
        self.names: dict[int, str] = {}  # node -> site, of the sites still in the run
        self._audit = audit
        self.drained: Callable[[], bool] = lambda: False  # whether the coordinator wants no further phase

    def end_if_drained(self, phase: str) -> None:
        """End the run before a phase, with EngineError, if the coordinator asked for it (:attr:`drained`)."""
        if self.drained():
            self.note(Event("run.drain", reason=phase))
            remedy = "What sites have trained stays there: the next run of the same configuration goes on from it"
            raise EngineError(f"the run was drained before {phase}", remedy=remedy)

    def require(
        self, phase: str, requests: Mapping[int, object], reply: type[T], deadline: float, envelopes: Envelopes = _NONE
    ) -> Replies[T]:
        """Like :meth:`ask`, but a site that fails leaves the run."""
        replies, failures = self.ask(phase, requests, reply, deadline, envelopes)
        for node, reason in failures.items():
            self.fail(self.names.pop(node), phase, reason)
        return replies

    def ask(
        self, phase: str, requests: Mapping[int, object], reply: type[T], deadline: float, envelopes: Envelopes
    ) -> tuple[Replies[T], dict[int, str]]:
        """Send one message per node and wait ``deadline`` seconds; the replies, and the reasons of failures."""
        packed = {node: protocol.pack(request, envelopes.get(node)) for node, request in requests.items()}
        found = self.exchange(phase, packed, deadline)
        replies: Replies[T] = {}
        failures = dict(found.failures)
        for node, answer in found.answers.items():
            try:
                replies[node] = protocol.read(answer, reply, "its answer"), answer.envelopes
            except FedstephError as error:
                failures[node] = error.what if isinstance(error, SiteError) else error.sentence
        return replies, failures

    def exchange(self, phase: str, requests: Mapping[int, RecordDict], deadline: float) -> Round:
        """One exchange of packed messages, reported as it advances; its seconds and bytes enter the outcome."""
        done, total = 0, max(1, len(requests))

        def on_answer(node: int, what: str) -> None:
            nonlocal done
            done += 1
            self.report(phase, done, total)
            self._report_of(node, phase, 1, what)
            self.status.answered(self.names.get(node, ""), what)

        self.status.begin(phase, deadline, (self.names[node] for node in requests if node in self.names))
        self.report(phase, 0, total)
        for node in requests:
            self._report_of(node, phase, 0, "asked")

        def on_change(node: int, what: str) -> None:
            self._report_of(node, phase, 0, what)
            self.note(Event(f"{phase}.connection", "noted", peer=self.names.get(node), reason=what))

        away, look = self.config.federation.deadlines.away, self.status.save
        found = exchange(self.grid, phase, requests, deadline, on_answer, away=away, on_change=on_change, on_look=look)
        self.status.save(at_once=True)
        self.count(phase, found)
        return found

    def count(self, phase: str, found: Round) -> None:
        """Add an exchange's seconds and bytes to the outcome."""
        self.outcome.seconds[phase] = round(self.outcome.seconds.get(phase, 0.0) + found.seconds, 3)
        self.outcome.bytes += found.bytes_sent + found.bytes_received

    def _report_of(self, node: int, phase: str, done: int, what: str) -> None:
        if node in self.names:
            self.report(phase, done, 1, what, self.names[node])

    def fail(self, site: str, phase: str, reason: str) -> None:
        """Add a failure to the outcome, to the status and to the audit log."""
        self.outcome.failures.append(Failure(site, phase, reason))
        self.status.answered(site, reason)
        self.status.save()
        self.note(Event(f"{phase}.fail", "failed", peer=site, reason=reason))

    def note(self, event: Event) -> None:
        """Append an event to the audit log, as one of this run."""
        self._audit.append(replace(event, run=self.id.run, reason=event.reason and event.reason[:300]))

    def require_quorum(self, phase: str) -> None:
        """Raise QuorumError, with every failure so far, unless the quorum and a target are left."""
        left, quorum = set(self.names.values()), self.config.federation.quorum
        if not left & set(self.config.federation.targets):
            self.lose_quorum(phase, "no target is left")
        if len(left) < quorum:
            self.lose_quorum(phase, f"{len(left)} of {quorum} sites needed")

    def lose_quorum(self, phase: str, what: str) -> NoReturn:
        """End the run for the reason ``what``, with a QuorumError that names every failure so far."""
        self.note(Event("run.end", "failed", reason=what))
        named = "; ".join(f"{f.site} failed in {f.phase}: {f.reason}" for f in self.outcome.failures)
        raise QuorumError(f"the quorum is lost ({what}). {named}", where=phase)
