"""Flower ClientApp of a site: turns each protocol message into function calls, and every error into a refusal.

Flower starts a new process per message, so a handler imports only what its phase needs. A hello does not load torch,
which takes seconds, except at sites with ``.pt`` files: only torch can read their headers.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsteph.client.data.discovery import usable_contents
from fedsteph.client.sharing.replay import enter_run
from fedsteph.client.site.additions.greeting import greeted
from fedsteph.client.site.daily_limit import require_within_limits
from fedsteph.client.site.inbox import Inbox
from fedsteph.client.site.membership import Membership
from fedsteph.client.site.site import Site
from fedsteph.client.site.site_log import site_log, told_of_work
from fedsteph.client.site.site_of_node import site_of_node
from fedsteph.client.training.epoch_log import to_tensorboard
from fedsteph.common.config.digest import digest
from fedsteph.common.config.run_config import SITE_NAME
from fedsteph.common.errors import DataError, FedstephError, ProtocolError, StorageError
from fedsteph.common.host.lock import exclusive
from fedsteph.common.host.progress import part
from fedsteph.common.host.progress_log import ProgressLog
from fedsteph.common.trust.audit_log import Decision, Event
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.messages import Average, Deliver, Hello, Merge, RunId, Share, TrainLocal

if TYPE_CHECKING:
    from fedsteph.client.site.workspace import Workspace

app = ClientApp()
T = TypeVar("T", Hello, TrainLocal, Average, Share, Deliver, Merge)
Answer = tuple[Any, Mapping[str, bytes]]  # a reply and its envelopes


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Answer with the site's name and cancer, how its features were made, and its signature."""

    def answer(site: Site, member: Membership, request: Hello, envelopes: Mapping[str, bytes]) -> Answer:
        contents = usable_contents(site.folder, site.file.data)
        try:
            reply = messages.HelloReply(
                site.name,
                version("fedsteph"),
                **vars(contents.extraction),
                width=contents.width,
                audit=site.audit.head,
                signature="0" * 128,
                cancer=site.file.cancer,
                roster_chain=None if member.signed is None else member.signed.chain_digest,
            )
        except ValueError as error:
            raise DataError(f"what its features state cannot be sent: {error}", where=site.folder) from error
        signature = member.identity.signer.sign(reply.signed_bytes(request.id, context.node_id))
        return replace(reply, signature=signature.hex()), {}

    return _handle(message, context, Hello, answer)


@app.train("local")
def train_local(message: Message, context: Context) -> Message:
    """Train the site's own models and keep them on its disk."""

    def answer(site: Site, member: Membership, request: TrainLocal, envelopes: Mapping[str, bytes]) -> Answer:
        from fedsteph.client.sharing.outgoing import require_shareable
        from fedsteph.client.sharing.shared_model import train_shared
        from fedsteph.client.target.fold_crew import train_side_by_side

        workspace = _workspace(site, request)
        if not request.every_fold:
            require_shareable(workspace)  # fail before training if this source may not share
        site_log(site).info("%s", workspace.cohort.storage)
        log = ProgressLog(site.state, site.name)
        if request.every_fold:
            train_side_by_side(workspace, partial(log.report, protocol.LOCAL, message="models side by side"))
        folds = [partial(workspace.train_local, fold) for fold in range(len(workspace.splits))]
        trainings = folds if request.every_fold else [partial(train_shared, workspace)]
        for done, training in enumerate(trainings):
            progress = partial(log.report, protocol.LOCAL, message=f"model {done + 1} of {len(trainings)}")
            training(part(progress, done, len(trainings)))
        log.report(protocol.LOCAL, len(trainings), len(trainings))
        patients, events = len(workspace.cohort), int(workspace.cohort.events.sum())
        policy = site.require_policy()
        return messages.TrainLocalReply(policy.band("patients", patients), policy.band("events", events)), {}

    return _handle(message, context, TrainLocal, answer)


@app.train("average")
def average(message: Message, context: Context) -> Message:
    """Train one round of FedAvg or FedProx, or store the final encoders. The server can read these updates."""

    def answer(site: Site, member: Membership, request: Average, envelopes: Mapping[str, bytes]) -> Answer:
        from fedsteph.client.sharing.averaging_rounds import keep_globals, train_round
        from fedsteph.client.sharing.outgoing import require_shareable
        from fedsteph.client.sharing.spending import spend_rounds

        policy = site.require_policy()
        policy.require_unsealed()
        workspace = _workspace(site, request)
        require_shareable(workspace)
        folder = workspace.folder / "rounds" / request.id.run
        norm = min(request.max_vector_norm, site.file.max_vector_norm)
        weight = messages.AverageReply(policy.weight(len(workspace.cohort)))
        if request.is_last:
            keep_globals(workspace, folder, request.method, envelopes, norm)
            return weight, {}
        ProgressLog(site.state, site.name).report(request.method, request.round + 1, request.recipe.comparators.rounds)
        spend_rounds(workspace, request.id, request.method)
        updates = train_round(workspace, folder, request.method, request.round, envelopes, norm)
        for content in updates.values():  # audited like a sealed vector, because the server can read it
            sha256, what = hashlib.sha256(content).hexdigest(), f"{request.method}, round {request.round}, unsealed"
            line = Event("update.send", "allowed", request.id.run, None, sha256, len(content), what)
            site.audit.append(line)
        return weight, updates

    return _handle(message, context, Average, answer)


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Seal the task vector, one envelope per recipient that the policy allows."""

    def answer(site: Site, member: Membership, request: Share, envelopes: Mapping[str, bytes]) -> Answer:
        from fedsteph.client.sharing.outgoing import outgoing
        from fedsteph.client.sharing.shared_model import train_shared

        # A target with DP-SGD has trained the models that it keeps, not the one that it shares.
        sealed, refused = outgoing(_workspace(site, request), member, request.id, request.recipients, train_shared)
        _warn(site, "kept the vector from", refused)
        reasons = tuple(messages.Refusal.of(error, name) for name, error in refused.items())
        return messages.ShareReply(reasons), sealed

    return _handle(message, context, Share, answer)


@app.train("deliver")
def deliver(message: Message, context: Context) -> Message:
    """Keep the envelopes for a merge on the site's disk, sealed as they are; without any, remove those."""

    def answer(site: Site, member: Membership, request: Deliver, envelopes: Mapping[str, bytes]) -> Answer:
        inbox = Inbox(site.state, request.id.run)
        if envelopes:
            site.require_policy().require_recipe(request.recipe)
            inbox.put(member, request.recipe, envelopes)
        else:
            inbox.clear()
        return messages.DeliverReply(), {}

    return _handle(message, context, Deliver, answer)


@app.train("merge")
def merge(message: Message, context: Context) -> Message:
    """Merge the received vectors with the site's own, and keep the enhanced models on its disk."""

    def answer(site: Site, member: Membership, request: Merge, envelopes: Mapping[str, bytes]) -> Answer:
        from fedsteph.client.report.page_process import draw_afterwards
        from fedsteph.client.sharing.averaging_rounds import kept_globals
        from fedsteph.client.sharing.incoming import incoming
        from fedsteph.client.sharing.kept_vectors import kept, usable
        from fedsteph.client.target.enhance import enhance_target
        from fedsteph.client.target.final.final_model import final_steps
        from fedsteph.client.target.results import public_view

        workspace = _workspace(site, request)
        envelopes = Inbox(site.state, request.id.run).opened(request.letters, envelopes)
        progress = ProgressLog(site.state, site.name)
        max_norm = min(request.max_vector_norm, site.file.max_vector_norm)
        for damaged in kept(site, member.roster)[1]:
            site_log(site).warning("%s", damaged)
        vectors, refused = incoming(workspace, member, request.id, envelopes, max_norm)
        _warn(site, "refused the vector of", refused)
        together = kept_globals(workspace, workspace.folder / "rounds" / request.id.run, max_norm)

        def report(done: float, total: float) -> None:
            folds, last = len(workspace.splits), final_steps(workspace.recipe)
            at = min(int(done * folds / (total - last)) + 1, folds if last == 0 else folds + 1)
            progress.report(protocol.MERGE, done, total, f"fold {at} of {folds}" if at <= folds else "final model")

        workspace.train_every_fold()  # where the data have changed since its training phase
        earlier = {}
        if request.reuse and site.file.reuse_vectors:  # where a vector came today, it or its refusal counts
            found = usable(workspace).items()
            earlier = {name: one for name, one in found if name not in envelopes and one.norm <= max_norm}
        received = vectors | earlier
        kin = [name for name in received if member.is_kin(name)]
        result = enhance_target(workspace, received, report, together, kept=earlier, kin=kin)
        if site.file.page:
            draw_afterwards(site, context.node_config["site-config"])
        return public_view(result, refused, site.require_policy()), {}

    return _handle(message, context, Merge, answer)


def _workspace(site: Site, request: TrainLocal | Average | Share | Merge) -> Workspace:
    from fedsteph.client.site.workspace import Workspace

    if request.recipe.model.m0 is not None:
        raise ProtocolError("names a file at this site, which is the site's own to name", where="request")
    site.require_policy().require_recipe(request.recipe)
    return Workspace.open(site, request.recipe)


def _handle(
    message: Message,
    context: Context,
    request_type: type[T],
    answer: Callable[[Site, Membership, T, Mapping[str, bytes]], Answer],
) -> Message:
    """Answer a request, or refuse it. Exception texts go to the site's own log only: they may name patients."""
    os.umask(0o077)  # new files are readable by the site's own account only
    action = message.metadata.message_type
    log = logging.getLogger("fedsteph")
    site: Site | None = None
    run: RunId | None = None
    try:
        site = site_of_node(context.node_config, context.run_config)
        log = site_log(site)
        content = protocol.parcel(message.content, "request")
        request = protocol.read(content, request_type, "request")
        if content.envelopes and not isinstance(request, Deliver | Merge | Average):
            raise ProtocolError("brings envelopes that it has no use for", where="request")
        run = request.id
        member = greeted(site, request.roster, run.run) if isinstance(request, Hello) else site.membership()
        member.require_run(run)
        # A repeated message waits for the first one to finish, and then finds its results.
        with exclusive(site.state, wait=True), told_of_work(log, run.run), to_tensorboard(site.tensorboard):
            require_within_limits(site, action, run.run)
            enter_run(site.state, run.run)
            Inbox.leave_others(site.state, run.run)
            reply, envelopes = answer(site, member, request, content.envelopes)
            records = protocol.pack(reply, envelopes)
            recipe = None if isinstance(request, Hello) else digest(request.recipe)
            # Audit before replying: if this fails, the reply is not sent. Inside the lock: the next request counts it.
            site.audit.append(Event(action, "allowed", run.run, artefact=recipe))
    except Exception as error:
        of_run = {"run": run.run if run else None}
        if isinstance(error, FedstephError):
            details = "" if error.details is None else f": {error.details}"
            log.error("refused %s: %s%s", action, error.sentence, details, extra=of_run)
        else:
            log.exception("failed in %s", action, extra=of_run)
        _audit_refusal(site, run, action, error, log)
        records = protocol.pack(messages.Refusal.of(error, site.name if site else None))
    return Message(records, reply_to=message)


def _audit_refusal(site: Site | None, run: RunId | None, action: str, error: Exception, log: logging.Logger) -> None:
    if site is None:
        return  # without a site there is no audit log
    meant = isinstance(error, FedstephError) and not isinstance(error, StorageError)
    decision: Decision = "refused" if meant else "failed"
    try:
        site.audit.append(Event(action, decision, run.run if run else None, reason=messages.Refusal.of(error).kind))
    except Exception:
        log.exception("this refusal could not be audited")


def _warn(site: Site, what: str, refused: Mapping[str, FedstephError]) -> None:
    for name, error in refused.items():
        # An invalid name is text that the server chose: keep it out of the log.
        known = SITE_NAME.fullmatch(name) is not None
        site_log(site).warning("%s %s: %s", what, name if known else "a sender without a name", error)
