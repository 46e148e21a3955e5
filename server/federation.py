"""Runs a federation at the server: hello, local training, averaging for the baselines, sharing, merging."""

from __future__ import annotations

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.run_config import Deadlines
from fedsteph.common.errors import FedstephError, VectorMismatchError
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire import messages, protocol
from fedsteph.server.aggregation import run_rounds
from fedsteph.server.baselines import Baseline
from fedsteph.server.hello import hello
from fedsteph.server.outcome import Outcome
from fedsteph.server.relay import collect, deliver, end_delivery, mail_of_targets
from fedsteph.server.session import Session


class Federation(Session):
    """One run, phase by phase."""

    def run(self) -> Outcome:
        """All phases. Envelopes stay in the mail room only if the process is killed.

        Raises:
            QuorumError: too few sites are left; ``outcome`` then still names every failure.
            EngineError: the coordinator drained the run.
            StorageError: the disk cannot be written, or an envelope on it is damaged.
        """
        try:
            self._phases()
        except FedstephError:
            self.mail.clear()
            raise
        self.mail.clear()
        self.note(Event("run.end", "allowed"))
        return self.outcome

    def _phases(self) -> None:
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
        self._share(limit.share)
        self.end_if_drained(protocol.MERGE)
        self._merge(limit)

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

    def _share(self, deadline: float) -> None:
        """Every site seals its vector for every target but itself."""
        collect(self, self.mail, deadline)
        served = {self.names[node] for node in mail_of_targets(self, self.mail)}
        for target in self.config.federation.targets:
            if target not in served and target in self.names.values():
                self.fail(target, protocol.SHARE, "no source sent it a vector")
        self.require_quorum(protocol.SHARE)

    def _merge(self, limit: Deadlines) -> None:
        """Every target gets its envelopes, and merges what it accepts."""
        recipe, federation = self.config.recipe, self.config.federation
        letters = mail_of_targets(self, self.mail)
        envelopes = deliver(self, self.mail, letters, limit.share)
        norm, reuse = federation.max_vector_norm, federation.reuse
        requests = {
            node: messages.Merge(self.id, recipe, norm, reuse, tuple(one.letter for one in sent.values()))
            for node, sent in letters.items()
            if node in self.names
        }
        merged = self.require(protocol.MERGE, requests, messages.MergeReply, limit.merge, envelopes)
        for node, (answer, _) in merged.items():
            target = self.names[node]
            self.outcome.targets[target] = answer
            for refusal in answer.refused:
                if refusal.site in letters[node]:
                    self.fail(str(refusal.site), protocol.MERGE, f"refused by {target}: {refusal.phrase}")
        if letters and not envelopes:
            end_delivery(self, limit.hello)
        if not self.outcome.targets:
            self.lose_quorum(protocol.MERGE, "no target has a result")
