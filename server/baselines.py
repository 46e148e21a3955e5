"""Asks the sites for the rounds of a federated baseline (FedAvg or FedProx), and gives its result to the targets."""

from __future__ import annotations

from collections.abc import Mapping

from fedsteph.common.wire import messages, protocol
from fedsteph.server.aggregation import Update, screen
from fedsteph.server.session import Session


class Baseline:
    """One baseline of a run. A site that fails takes no further part in it, but stays in the run."""

    def __init__(self, session: Session, method: str, deadline: float) -> None:
        self._session = session
        self._method = method
        self._deadline = deadline
        self._taking_part = set(session.names)

    def ask(self, round_: int, encoders: Mapping[str, bytes]) -> dict[int, Update]:
        """Send a round's global encoders, by fold, and collect the updates that can be averaged, by node."""
        session, config = self._session, self._session.config
        max_norm = config.federation.max_vector_norm
        request = messages.Average(session.id, config.recipe, self._method, round_, max_norm)  # type: ignore[arg-type]
        asked = dict.fromkeys(sorted(self._taking_part), request)
        sent = dict.fromkeys(asked, encoders)
        replies, failures = session.ask(protocol.AVERAGE, asked, messages.AverageReply, self._deadline, sent)
        updates = {node: Update(vectors, reply.weight) for node, (reply, vectors) in replies.items()}
        if not request.is_last:
            failures |= screen(updates, max_norm)
        for node, reason in failures.items():
            self._taking_part.discard(node)
            session.fail(session.names[node], protocol.AVERAGE, f"{self._method}, round {round_}: {reason}")
        return {node: update for node, update in updates.items() if node not in failures}

    def give_to_targets(self, encoders: Mapping[str, bytes]) -> None:
        """Send the result, the encoders after the last round by fold, to the targets that still take part."""
        config = self._session.config
        self._taking_part &= {node for node, name in self._session.names.items() if name in config.federation.targets}
        self.ask(config.recipe.comparators.rounds, encoders)
