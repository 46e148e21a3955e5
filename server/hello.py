"""Finds out which node is which site: a site must sign with its key of the roster and have the expected features."""

from __future__ import annotations

import time

from cryptography.exceptions import InvalidSignature

from fedsteph.common.config.run_config import Deadlines
from fedsteph.common.errors import FedstephError, SiteError
from fedsteph.common.trust.audit_log import Event
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.protocol import Parcel
from fedsteph.server.exchange import Exchange, wait_after
from fedsteph.server.session import Session

_UNKNOWN = "an unknown node"
_MOST_NAMED = 20  # sites that are waited for, in a line of progress


def hello(session: Session, limit: Deadlines) -> None:
    """Ask every node who it is as soon as it is there; the sites of the federation join the run.

    Nodes are waited for until all sites have joined, or ``limit.nodes`` seconds have passed; each has ``limit.hello``
    seconds for its answer. Where as many connected nodes have failed as sites are missing, nobody is waited for: the
    failed nodes are most likely the missing sites. Raises QuorumError if too few sites joined, or no target.
    """
    _Welcome(session, limit).run()
    session.require_quorum(protocol.HELLO)


class _Welcome:
    def __init__(self, session: Session, limit: Deadlines) -> None:
        self._session = session
        self._sites = session.config.federation.sites
        self._talk = Exchange(session.grid, protocol.HELLO, limit.hello)
        self._seconds = limit.nodes
        self._until = time.monotonic() + limit.nodes
        self._asked: set[int] = set()
        self._failed: dict[int, tuple[str, str]] = {}  # by node: its name, as far as it is known, and the reason
        self._guests: dict[int, str] = {}  # nodes that proved to be no site of this run
        self._said = ""

    def run(self) -> None:
        late = False
        self._session.status.begin(protocol.HELLO, self._seconds)
        while True:
            began = time.monotonic()
            if not late:
                self._ask_who_is_new()
            heard = self._hear()
            self._session.status.save()
            self._say_who_is_missing()
            if self._nobody_comes() or (late and not self._talk.awaited):
                break
            late = late or time.monotonic() > self._until
            if not heard:
                wait_after(began)
        self._record_failures()
        self._session.status.save(at_once=True)
        self._session.count(protocol.HELLO, self._talk.found)

    @property
    def _missing(self) -> list[str]:
        joined = set(self._session.names.values())
        return [site for site in self._sites if site not in joined]

    def _nodes(self) -> set[int]:
        online = set(self._session.grid.get_node_ids())
        self._asked &= online | self._talk.awaited  # who is away will be asked again
        return online

    def _nobody_comes(self) -> bool:
        missing = len(self._missing)
        if 0 < missing <= len(self._failed):
            self._nodes()
            return missing <= len(self._failed.keys() & self._asked)
        return missing == 0

    def _ask_who_is_new(self) -> None:
        new = self._nodes() - self._asked - self._session.names.keys()
        self._asked |= new
        for node in new:
            self._failed.pop(node, None)
        request = messages.Hello(self._session.id, self._session.signed)
        self._talk.send({node: protocol.pack(request) for node in sorted(new)})

    def _hear(self) -> bool:
        heard, found = self._talk.collect(), self._talk.found
        self._failed |= {node: (f"node {node}", reason) for node, reason in found.failures.items()}
        for node, answer in sorted(found.answers.items()):
            self._take(node, answer)
        found.failures.clear()
        found.answers.clear()
        return heard

    def _take(self, node: int, answer: Parcel) -> None:
        try:
            reply = protocol.read(answer, messages.HelloReply, "its answer")
        except SiteError as error:
            # A refusal is not signed: the name in it counts only if it is a site's and no other node joins under it.
            self._failed[node] = (str(error.where) if error.where in self._sites else _UNKNOWN), error.what
        except FedstephError as error:
            self._failed[node] = f"node {node}", error.sentence
        else:
            self._join(node, reply)

    def _join(self, node: int, reply: messages.HelloReply) -> None:
        session, claim = self._session, f"it says that it is {reply.site}"
        if reply.site in session.names.values():
            self._failed[node] = f"node {node}", f"{claim}, as another does"
        elif not _signed(session, node, reply):
            self._failed[node] = f"node {node}", f"{claim}, and does not sign as the roster's {reply.site} does"
        elif reply.site not in self._sites:
            self._guests[node] = reply.site
        elif mismatch := _mismatch(session, reply):
            self._failed[node] = reply.site, mismatch
        else:
            session.names[node] = reply.site
            session.outcome.sites[reply.site] = {"software": reply.software, "encoder": reply.encoder}
            session.status.joined(reply.site, node, reply.software)
            session.note(Event("site.join", "allowed", peer=reply.site, artefact=reply.audit))

    def _say_who_is_missing(self) -> None:
        missing = self._missing
        named = ", ".join(missing[:_MOST_NAMED])
        if (others := len(missing) - _MOST_NAMED) > 0:
            named += f" and {others} more"
        text = f"waiting for {named}" if missing else "all sites have joined"
        if asked := len(self._talk.awaited):
            text += f"; nodes that have not answered yet: {asked}"
        if self._failed:
            text += f"; nodes that failed: {len(self._failed)}"
        if text != self._said:
            self._said = text
            n_sites = max(1, len(self._sites))
            self._session.report(protocol.HELLO, len(self._sites) - len(missing), n_sites, text)

    def _record_failures(self) -> None:
        for _, (who, reason) in sorted(self._failed.items()):
            claimed_by_another = who in self._session.names.values()
            self._session.fail(_UNKNOWN if claimed_by_another else who, protocol.HELLO, reason)
        for guest in self._guests.values():
            self._session.fail(guest, protocol.HELLO, "it is not among federation.sites")
        named = {failure.site for failure in self._session.outcome.failures}
        for site in self._missing:
            if site not in named:
                self._session.fail(site, protocol.HELLO, "no node said that it is this site")


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
    model, entry = session.config.model, session.roster.entry(reply.site)
    if reply.cancer is not None and (entry is None or entry.cancer != reply.cancer):
        known = None if entry is None else entry.cancer
        return f"it says that its cancer is {reply.cancer}, and the roster has {known or 'none'}"
    if session.signed is not None and reply.roster_chain not in (None, session.signed.chain_digest):
        return f"it has accepted other rosters (chain {reply.roster_chain}) than this federation's"
    if reply.width == model.width and reply.extraction.agrees_with(model.extraction):
        return None
    return (
        f"its features are of {reply.extraction} ({reply.width} wide), "
        f"the federation's of {model.extraction} ({model.width} wide)"
    )
