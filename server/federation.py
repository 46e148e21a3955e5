"""The run as the coordinator sees it: its phases, a quorum, and an outcome that names every failure."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import FedstephError, QuorumError, SiteError, VectorMismatchError
from fedsteph.common.trust.audit_log import AuditLog, Decision, Event
from fedsteph.common.trust.roster import Roster
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.messages import RunId
from fedsteph.server.aggregation import Update, run_rounds, screen
from fedsteph.server.exchange import Round, exchange

T = TypeVar("T")
OnProgress = Callable[..., None]  # as fedsteph.common.host.progress.ProgressLog.report


@dataclass(frozen=True)
class Failure:
    """A site that is out, the phase in which it failed, and the reason as far as the server may know it."""

    site: str
    phase: str
    reason: str


@dataclass
class Outcome:
    """What a run leaves at the server; no vector and no exact count is in it."""

    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Federation:
    """One run over one grid. :meth:`run` reads as the protocol does."""

    def __init__(
        self,
        grid: Grid,
        config: Config,
        run: str,
        roster: Roster,
        audit: AuditLog,
        report: OnProgress = lambda phase, done, total, message="", party=None: None,
    ) -> None:
        self.grid = grid
        self.config = config
        self.id = RunId(config.federation.name, run, roster.digest)
        self.outcome = Outcome()
        self._roster = roster
        self._audit = audit
        self._report = report
        self._names: dict[int, str] = {}  # node -> site, of the sites still in the run

    def run(self) -> Outcome:
        """Hello, local training, averaging where a baseline asks for it, sharing, merging.

        Raises:
            QuorumError: too few sites are left; ``outcome`` then still names every failure.
        """
        recipe, limit = self.config.recipe, self.config.federation.deadlines
        targets = self.config.federation.targets
        self._note("run.start")
        self._hello(limit.hello)

        local = {
            node: messages.TrainLocal(self.id, recipe, every_fold=name in targets) for node, name in self._names.items()
        }
        for node, (reply, _) in self._phase(protocol.LOCAL, local, messages.TrainLocalReply, limit.local).items():
            self.outcome.sites[self._names[node]] |= asdict(reply)
        self._require_quorum(protocol.LOCAL)

        for method in recipe.comparators.methods:
            if METHODS[method].needs == "rounds":
                self._average(method, limit.local)

        share = {
            node: messages.Share(self.id, recipe, tuple(target for target in targets if target != name))
            for node, name in self._names.items()
            if set(targets) - {name}
        }
        mail = self._sort_mail(self._phase(protocol.SHARE, share, messages.ShareReply, limit.share))
        self._require_quorum(protocol.SHARE)

        merge = {
            node: messages.Merge(self.id, recipe, self.config.federation.max_vector_norm)
            for node, name in self._names.items()
            if mail.get(name)
        }
        merged = self._phase(
            protocol.MERGE,
            merge,
            messages.MergeReply,
            limit.merge,
            envelopes={node: mail[self._names[node]] for node in merge},
        )
        for node, (answer, _) in merged.items():
            target = self._names[node]
            self.outcome.targets[target] = asdict(answer)
            for refusal in answer.refused:
                if refusal.site in mail[target]:
                    self._fail(str(refusal.site), protocol.MERGE, f"refused by {target}: {refusal.phrase}")
        if not self.outcome.targets:
            self._lose_quorum(protocol.MERGE, "no target has a result")
        self._note("run.end", "allowed")
        return self.outcome

    def _average(self, method: str, deadline: float) -> None:
        """All rounds of a federated baseline. Who fails in one takes no further part in it, but stays in the run."""
        recipe, max_norm = self.config.recipe, self.config.federation.max_vector_norm
        rounds, taking_part = recipe.comparators.rounds, set(self._names)

        def ask(round_: int, encoders: Mapping[str, bytes]) -> dict[int, Update]:
            request = messages.Average(self.id, recipe, method, round_, max_norm)  # type: ignore[arg-type]
            asked = dict.fromkeys(sorted(taking_part), request)
            replies, failures = self._ask(
                protocol.AVERAGE, asked, messages.AverageReply, deadline, dict.fromkeys(asked, encoders)
            )
            updates = {node: Update(vectors, reply.weight) for node, (reply, vectors) in replies.items()}
            if not request.is_last:
                failures |= screen(updates, max_norm)
            for node, reason in failures.items():
                taking_part.discard(node)
                self._fail(self._names[node], protocol.AVERAGE, f"{method}, round {round_}: {reason}")
            return {node: update for node, update in updates.items() if node not in failures}

        try:
            encoders = run_rounds(method, recipe.comparators, ask)
        except VectorMismatchError as error:
            self._note(f"{method}.end", "failed", reason=error.sentence)
            return
        taking_part &= {node for node, name in self._names.items() if name in self.config.federation.targets}
        ask(rounds, encoders)
        self._note(f"{method}.end", "allowed")

    def _hello(self, deadline: float) -> None:
        until = time.monotonic() + deadline
        nodes = self._nodes(until)
        requests = {node: protocol.pack(messages.Hello(self.id)) for node in nodes}
        round_ = self._exchange(protocol.HELLO, requests, max(1.0, until - time.monotonic()))
        for node, reason in round_.failures.items():
            self._fail(f"node {node}", protocol.HELLO, reason)
        refusals: list[tuple[str, str]] = []
        for node, answer in sorted(round_.answers.items()):
            try:
                reply = protocol.read(answer, messages.HelloReply, "its answer")
            except SiteError as error:
                refusals.append((str(error.where), error.what))
            except FedstephError as error:
                self._fail(f"node {node}", protocol.HELLO, error.sentence)
            else:
                if reply.site in self._names.values():
                    self._fail(f"node {node}", protocol.HELLO, f"it says that it is {reply.site}, as another does")
                elif not self._signed(reply, node):
                    reason = f"it says that it is {reply.site}, and does not sign as the roster's {reply.site} does"
                    self._fail(f"node {node}", protocol.HELLO, reason)
                elif mismatch := self._mismatch(reply):
                    self._fail(reply.site, protocol.HELLO, mismatch)
                else:
                    self._names[node] = reply.site
                    self.outcome.sites[reply.site] = {"software": reply.software, "encoder": reply.encoder}
                    self._note("site.join", "allowed", reply.site, artefact=reply.audit)
        for name, reason in refusals:
            # A refusal's name is the node's own claim, and counts only for a site that nobody else is.
            claimed = name in self.config.federation.sites and name not in self._names.values()
            self._fail(name if claimed else "an unknown node", protocol.HELLO, reason)
        for name in self.config.federation.sites:
            if name not in self._names.values() and name not in {f.site for f in self.outcome.failures}:
                self._fail(name, protocol.HELLO, "no node said that it is this site")
        self._require_quorum(protocol.HELLO)

    def _signed(self, reply: messages.HelloReply, node: int) -> bool:
        """Whether the roster's owner of the name answers: any node can claim a name."""
        entry = self._roster.entry(reply.site)
        if entry is None:
            return False
        try:
            entry.keys.verifier.verify(bytes.fromhex(reply.signature), reply.signed_bytes(self.id, node))
        except InvalidSignature:
            return False
        return True

    def _nodes(self, until: float) -> list[int]:
        """Wait for as many nodes as there are sites; whoever is missing then is missed by name."""
        while True:
            nodes = list(self.grid.get_node_ids())
            self._report("waiting for nodes", len(nodes), max(1, len(self.config.federation.sites)))
            if len(nodes) >= len(self.config.federation.sites) or time.monotonic() > until:
                return nodes
            time.sleep(0.5)

    def _mismatch(self, reply: messages.HelloReply) -> str | None:
        expected, width = self.config.federation.sites, self.config.model.width
        if reply.site not in expected:
            return "it is not among federation.sites"
        wanted, found = self.config.model.encoder, reply.encoder
        if reply.width != width or (None not in (wanted, found) and wanted != found):
            return (
                f"its features are of {found or 'an unnamed encoder'} ({reply.width} wide), "
                f"the federation's of {wanted or 'an unnamed encoder'} ({width} wide)"
            )
        return None

    def _phase(
        self,
        action: str,
        requests: Mapping[int, Any],
        reply_type: type[T],
        deadline: float,
        envelopes: Mapping[int, Mapping[str, bytes]] | None = None,
    ) -> dict[int, tuple[T, Mapping[str, bytes]]]:
        """One exchange that the run cannot do without: who fails in it is out."""
        replies, failures = self._ask(action, requests, reply_type, deadline, envelopes or {})
        for node, reason in failures.items():
            self._fail(self._names.pop(node), action, reason)
        return replies

    def _ask(
        self,
        action: str,
        requests: Mapping[int, Any],
        reply_type: type[T],
        deadline: float,
        envelopes: Mapping[int, Mapping[str, bytes]],
    ) -> tuple[dict[int, tuple[T, Mapping[str, bytes]]], dict[int, str]]:
        packed = {n: protocol.pack(r, envelopes.get(n)) for n, r in requests.items()}
        round_ = self._exchange(action, packed, deadline)
        replies: dict[int, tuple[T, Mapping[str, bytes]]] = {}
        failures = dict(round_.failures)
        for node, answer in round_.answers.items():
            try:
                replies[node] = protocol.read(answer, reply_type, "its answer"), answer.envelopes
            except SiteError as error:
                failures[node] = error.what
            except FedstephError as error:
                failures[node] = error.sentence
        return replies, failures

    def _sort_mail(
        self, replies: Mapping[int, tuple[messages.ShareReply, Mapping[str, bytes]]]
    ) -> dict[str, dict[str, bytes]]:
        """Envelopes by recipient and then by sender, unopened; a target that nobody wrote to has failed."""
        mail: dict[str, dict[str, bytes]] = {target: {} for target in self.config.federation.targets}
        for node, (reply, envelopes) in replies.items():
            sender = self._names[node]
            for recipient, content in envelopes.items():
                if recipient in mail:
                    mail[recipient][sender] = content
                    sha256 = hashlib.sha256(content).hexdigest()
                    route = f"{sender} -> {recipient}"
                    self._note("envelope.relay", "allowed", route, artefact=sha256, size=len(content))
            for refusal in reply.refused:
                self._fail(sender, protocol.SHARE, f"kept its vector from {refusal.site}: {refusal.phrase}")
            if not envelopes and sender not in mail:
                del self._names[node]  # a source that shares with nobody is no part of what follows
        for target, letters in mail.items():
            if not letters and target in self._names.values():
                self._fail(target, protocol.SHARE, "no source sent it a vector")
        return mail

    def _exchange(self, action: str, requests: Mapping[int, RecordDict], deadline: float) -> Round:
        done, total = 0, max(1, len(requests))

        def on_answer(node: int, what: str) -> None:
            nonlocal done
            done += 1
            self._report(action, done, total)
            self._report_of(node, action, 1, what)

        self._report(action, 0, total)
        for node in requests:
            self._report_of(node, action, 0, "asked")
        found = exchange(self.grid, action, requests, deadline, on_answer)
        self.outcome.seconds[action] = round(self.outcome.seconds.get(action, 0.0) + found.seconds, 3)
        self.outcome.bytes += found.bytes_sent + found.bytes_received
        return found

    def _report_of(self, node: int, action: str, done: int, what: str) -> None:
        if node in self._names:
            self._report(action, done, 1, what, self._names[node])

    def _fail(self, site: str, phase: str, reason: str) -> None:
        self.outcome.failures.append(Failure(site, phase, reason))
        self._note(f"{phase}.fail", "failed", site, reason=reason)

    def _note(
        self,
        event: str,
        decision: Decision = "noted",
        peer: str | None = None,
        *,
        artefact: str | None = None,
        size: int | None = None,
        reason: str | None = None,
    ) -> None:
        self._audit.append(Event(event, decision, self.id.run, peer, artefact, size, reason and reason[:300]))

    def _require_quorum(self, phase: str) -> None:
        left, quorum = set(self._names.values()), self.config.federation.quorum
        if not left & set(self.config.federation.targets):
            self._lose_quorum(phase, "no target is left")
        if len(left) < quorum:
            self._lose_quorum(phase, f"{len(left)} of {quorum} sites needed")

    def _lose_quorum(self, phase: str, what: str) -> NoReturn:
        self._note("run.end", "failed", reason=what)
        named = "; ".join(f"{f.site} failed in {f.phase}: {f.reason}" for f in self.outcome.failures)
        raise QuorumError(f"the quorum is lost ({what}). {named}", where=phase)
