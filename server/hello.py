"""Finds out which node is which site: a site must sign with its key of the roster and have the expected features."""

from __future__ import annotations

import time

from cryptography.exceptions import InvalidSignature

from fedsteph.common.errors import FedstephError, SiteError
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire import messages, protocol
from fedsteph.server.session import Session


def hello(session: Session, deadline: float) -> None:
    """Ask every node who it is; the sites of the federation join the run.

    Args:
        deadline: seconds to wait, for nodes and answers together.

    Raises:
        QuorumError: too few sites joined, or no target.
    """
    until = time.monotonic() + deadline
    nodes = _nodes(session, until)
    requests = {node: protocol.pack(messages.Hello(session.id)) for node in nodes}
    found = session.exchange(protocol.HELLO, requests, max(1.0, until - time.monotonic()))
    for node, reason in found.failures.items():
        session.fail(f"node {node}", protocol.HELLO, reason)
    refusals: list[SiteError] = []
    for node, answer in sorted(found.answers.items()):
        try:
            reply = protocol.read(answer, messages.HelloReply, "its answer")
        except SiteError as error:
            refusals.append(error)
        except FedstephError as error:
            session.fail(f"node {node}", protocol.HELLO, error.sentence)
        else:
            _join(session, node, reply)
    _name_the_missing(session, refusals)
    session.require_quorum(protocol.HELLO)


def _nodes(session: Session, until: float) -> list[int]:
    """Wait until ``until`` (monotonic seconds) for as many nodes as there are sites."""
    n_sites = len(session.config.federation.sites)
    while True:
        nodes = list(session.grid.get_node_ids())
        session.report("waiting for nodes", len(nodes), max(1, n_sites))
        if len(nodes) >= n_sites or time.monotonic() > until:
            return nodes
        time.sleep(0.5)


def _join(session: Session, node: int, reply: messages.HelloReply) -> None:
    if reply.site in session.names.values():
        session.fail(f"node {node}", protocol.HELLO, f"it says that it is {reply.site}, as another does")
    elif not _signed(session, node, reply):
        reason = f"it says that it is {reply.site}, and does not sign as the roster's {reply.site} does"
        session.fail(f"node {node}", protocol.HELLO, reason)
    elif mismatch := _mismatch(session, reply):
        session.fail(reply.site, protocol.HELLO, mismatch)
    else:
        session.names[node] = reply.site
        session.outcome.sites[reply.site] = {"software": reply.software, "encoder": reply.encoder}
        session.note(Event("site.join", "allowed", peer=reply.site, artefact=reply.audit))


def _signed(session: Session, node: int, reply: messages.HelloReply) -> bool:
    """Whether the signature is by the roster's key of the site: any node can claim a name."""
    entry = session.roster.entry(reply.site)
    if entry is None:
        return False
    try:
        entry.keys.verifier.verify(bytes.fromhex(reply.signature), reply.signed_bytes(session.id, node))
    except InvalidSignature:
        return False
    return True


def _mismatch(session: Session, reply: messages.HelloReply) -> str | None:
    model, found = session.config.model, reply.encoder
    if reply.site not in session.config.federation.sites:
        return "it is not among federation.sites"
    if reply.width != model.width or (None not in (model.encoder, found) and model.encoder != found):
        return (
            f"its features are of {found or 'an unnamed encoder'} ({reply.width} wide), "
            f"the federation's of {model.encoder or 'an unnamed encoder'} ({model.width} wide)"
        )
    return None


def _name_the_missing(session: Session, refusals: list[SiteError]) -> None:
    """Record refusals, and sites that no node answered for."""
    sites, joined = session.config.federation.sites, session.names.values()
    for error in refusals:
        # A refusal is not signed: the name in it counts only if it is a site's and no other node has joined under it.
        claimed = error.where in sites and error.where not in joined
        session.fail(str(error.where) if claimed else "an unknown node", protocol.HELLO, error.what)
    failed = {failure.site for failure in session.outcome.failures}
    for name in sites:
        if name not in joined and name not in failed:
            session.fail(name, protocol.HELLO, "no node said that it is this site")
