"""Runs a federation at the server: hello, local training, averaging for the baselines, sharing, merging."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.errors import VectorMismatchError
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire import messages, protocol
from fedsteph.server.aggregation import run_rounds
from fedsteph.server.baselines import Baseline
from fedsteph.server.hello import hello
from fedsteph.server.outcome import Outcome
from fedsteph.server.session import Replies, Session

Mail = dict[str, dict[str, bytes]]  # envelopes by recipient, then by sender


class Federation(Session):
    """One run, phase by phase."""

    def run(self) -> Outcome:
        """All phases.

        Raises:
            QuorumError: too few sites are left; ``outcome`` then still names every failure.
            EngineError: the coordinator drained the run.
        """
        limit = self.config.federation.deadlines
        self.note(Event("run.start"))
        hello(self, limit)
        self.end_if_drained(protocol.LOCAL)
        self._train(limit.local)
        for method in self.config.recipe.comparators.methods:
            if METHODS[method].needs == "rounds":
                self.end_if_drained(method)
                self._average(method, limit.local)
        self.end_if_drained(protocol.SHARE)
        mail = self._share(limit.share)
        self.end_if_drained(protocol.MERGE)
        self._merge(mail, limit.merge)
        self.note(Event("run.end", "allowed"))
        return self.outcome

    def _train(self, deadline: float) -> None:
        """Every site trains its own model."""
        recipe, targets = self.config.recipe, self.config.federation.targets
        requests = {
            node: messages.TrainLocal(self.id, recipe, every_fold=name in targets) for node, name in self.names.items()
        }
        for node, (reply, _) in self.require(protocol.LOCAL, requests, messages.TrainLocalReply, deadline).items():
            self.outcome.sites[self.names[node]] |= {"patients": reply.patients, "events": reply.events}
        self.require_quorum(protocol.LOCAL)

    def _average(self, method: str, deadline: float) -> None:
        """All rounds of a baseline. If they fail, the run goes on without it."""
        baseline = Baseline(self, method, deadline)
        try:
            encoders = run_rounds(method, self.config.recipe.comparators, baseline.ask)
        except VectorMismatchError as error:
            self.note(Event(f"{method}.end", "failed", reason=error.sentence))
        else:
            baseline.give_to_targets(encoders)
            self.note(Event(f"{method}.end", "allowed"))

    def _share(self, deadline: float) -> Mail:
        """Every site seals its vector for every target but itself."""
        recipe, targets = self.config.recipe, self.config.federation.targets
        requests = {
            node: messages.Share(self.id, recipe, recipients)
            for node, name in self.names.items()
            if (recipients := tuple(target for target in targets if target != name))
        }
        mail = self._sort_mail(self.require(protocol.SHARE, requests, messages.ShareReply, deadline))
        for target, letters in mail.items():
            if not letters and target in self.names.values():
                self.fail(target, protocol.SHARE, "no source sent it a vector")
        self.require_quorum(protocol.SHARE)
        return mail

    def _sort_mail(self, replies: Replies[messages.ShareReply]) -> Mail:
        """Envelopes for targets, unopened; others are dropped. A source that sent none leaves the run."""
        mail: Mail = {target: {} for target in self.config.federation.targets}
        for node, (reply, envelopes) in replies.items():
            sender = self.names[node]
            for recipient, content in envelopes.items():
                if recipient in mail:
                    mail[recipient][sender] = content
                    sha256 = hashlib.sha256(content).hexdigest()
                    route = f"{sender} -> {recipient}"
                    self.note(Event("envelope.relay", "allowed", None, route, sha256, len(content)))
            for refusal in reply.refused:
                self.fail(sender, protocol.SHARE, f"kept its vector from {refusal.site}: {refusal.phrase}")
            if not envelopes and sender not in mail:
                del self.names[node]
        return mail

    def _merge(self, mail: Mapping[str, Mapping[str, bytes]], deadline: float) -> None:
        """Every target gets its envelopes, and merges what it accepts."""
        federation = self.config.federation
        envelopes = {node: mail[name] for node, name in self.names.items() if mail.get(name)}
        request = messages.Merge(self.id, self.config.recipe, federation.max_vector_norm, federation.reuse)
        requests = dict.fromkeys(envelopes, request)
        merged = self.require(protocol.MERGE, requests, messages.MergeReply, deadline, envelopes)
        for node, (answer, _) in merged.items():
            target = self.names[node]
            self.outcome.targets[target] = answer
            for refusal in answer.refused:
                if refusal.site in mail[target]:
                    self.fail(str(refusal.site), protocol.MERGE, f"refused by {target}: {refusal.phrase}")
        if not self.outcome.targets:
            self.lose_quorum(protocol.MERGE, "no target has a result")
