"""Relays sealed envelopes: collects them from the sources into the mail room, and delivers them to the targets.

However many sites there are, only ``letters.IN_THE_AIR`` bytes of envelopes are in memory and on their way at once. A
source that has more to send is asked several times; a target that gets more is sent some of it ahead of its merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter

from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.letters import in_groups, most_bytes
from fedsteph.server.mail_room import MailRoom, Stored
from fedsteph.server.session import Envelopes, Session

Mail = Mapping[int, Mapping[str, Stored]]  # by the target's node, then by sender


def collect(session: Session, mail: MailRoom, deadline: float) -> None:
    """Every site seals its vector for every target but itself, unless the mail room has that envelope already.

    Each message has ``deadline`` seconds. A site that sent none to anybody, and is no target, leaves the run.
    """
    config = session.config
    size, targets = most_bytes(config.model, config.sharing), config.federation.targets
    if dropped := mail.drop_damaged():
        session.note(Event("envelope.drop", "noted", reason=f"damaged envelopes, which are asked for again: {dropped}"))
    gave: set[str] = set()
    for group in in_groups(targets, lambda _: size):
        have = {target: {*mail.of(target)} for target in group}
        lacking = {
            node: recipients
            for node, name in session.names.items()
            if (recipients := tuple(target for target in group if target != name and name not in have[target]))
        }
        for wave in in_groups(lacking.items(), lambda one: size * len(one[1])):
            _ask_for(session, mail, dict(wave), deadline)
        gave.update(*(mail.of(target) for target in group))
    for node, name in list(session.names.items()):
        if name not in gave and name not in targets:
            del session.names[node]


def _ask_for(session: Session, mail: MailRoom, recipients: Mapping[int, tuple[str, ...]], deadline: float) -> None:
    """One message to each of these sites; envelopes that it was not asked for are dropped, unopened like the others."""
    config = session.config
    requests = {node: messages.Share(session.id, config.recipe, names) for node, names in recipients.items()}
    replies = session.require(protocol.SHARE, requests, messages.ShareReply, deadline)
    most = most_bytes(config.model, config.sharing)
    for node, (reply, envelopes) in replies.items():
        sender = session.names[node]
        for recipient in recipients[node]:
            if (content := envelopes.get(recipient)) is None:
                continue
            if len(content) > most:
                session.fail(sender, protocol.SHARE, f"its envelope for {recipient} is larger than a vector can be")
                continue
            letter, route = mail.put(recipient, sender, content), f"{sender} -> {recipient}"
            session.note(Event("envelope.relay", "allowed", None, route, letter.sha256, len(content)))
        for refusal in reply.refused:
            session.fail(sender, protocol.SHARE, f"kept its vector from {refusal.site}: {refusal.phrase}")


def mail_of_targets(session: Session, mail: MailRoom) -> Mail:
    """What there is for the targets that are still in the run; a target without any is left out."""
    targets = session.config.federation.targets
    found = {node: mail.of(name) for node, name in session.names.items() if name in targets}
    return {node: letters for node, letters in found.items() if letters}


def deliver(session: Session, mail: MailRoom, letters: Mail, deadline: float) -> Envelopes:
    """Deliver the letters, unless all of them can travel with the merges: then they are returned instead.

    Each message has ``deadline`` seconds; a target that fails leaves the run. Raises StorageError if an envelope is
    damaged.
    """
    every = (one for stored in letters.values() for one in stored.values())
    if len([*in_groups(every, lambda one: one.size)]) <= 1:
        return {node: _read(mail, list(stored.values())) for node, stored in letters.items()}
    posts = [
        (number, node, batch)
        for node, stored in letters.items()
        for number, batch in enumerate(in_groups(stored.values(), lambda one: one.size))
    ]
    posts.sort(key=itemgetter(0))  # stable; of those with one number, no two go to one node
    for _, turn in groupby(posts, key=itemgetter(0)):
        for wave in in_groups(turn, lambda post: sum(one.size for one in post[2])):
            _post(session, mail, {node: batch for _, node, batch in wave if node in session.names}, deadline)
    return {}


def _post(session: Session, mail: MailRoom, batches: Mapping[int, list[Stored]], deadline: float) -> None:
    request = messages.Deliver(session.id, session.config.recipe)
    envelopes = {node: _read(mail, batch) for node, batch in batches.items()}
    requests = dict.fromkeys(batches, request)
    for node in session.require(protocol.DELIVER, requests, messages.DeliverReply, deadline, envelopes):
        size = sum(one.size for one in batches[node])
        session.note(Event("envelope.deliver", "allowed", peer=session.names[node], size=size))


def end_delivery(session: Session, deadline: float) -> None:
    """Let the targets that have merged remove what was delivered; if one does not, its next run will."""
    targets = {node for node, name in session.names.items() if name in session.outcome.targets}
    requests = dict.fromkeys(targets, messages.Deliver(session.id, session.config.recipe))
    _, failures = session.ask(protocol.DELIVER, requests, messages.DeliverReply, deadline, {})
    for node, reason in failures.items():
        session.note(Event("envelope.deliver", "failed", peer=session.names[node], reason=reason))


def _read(mail: MailRoom, batch: list[Stored]) -> dict[str, bytes]:
    return {one.letter.sender: mail.read(one) for one in batch}
