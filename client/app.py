"""Flower ClientApp: translates the protocol's four messages into calls, and every error into a refusal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.data.bags import open_cohort
from client.results import public_view
from client.sharing import incoming, outgoing
from client.site import Site, site_of_node
from client.target import enhance_target
from client.workspace import Workspace
from common import protocol
from common.errors import DataError, FedstephError
from common.lock import exclusive
from common.progress import ProgressLog
from common.protocol import Hello, Merge, Share, TrainLocal

app = ClientApp()
T = TypeVar("T")
Answer = tuple[Any, Mapping[str, bytes]]  # a reply and its envelopes


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who is there and what its features are."""

    def answer(site: Site, request: Hello, envelopes: Mapping[str, bytes]) -> Answer:
        cohort = open_cohort(site.folder, site.data)
        try:
            return protocol.HelloReply(site.name, version("fedsteph"), cohort.encoder, cohort.width), {}
        except ValueError as error:
            raise DataError(f"the encoder's name cannot be sent: {error}", where=site.folder) from error

    return _handle(message, context, Hello, answer)


@app.train("local")
def train_local(message: Message, context: Context) -> Message:
    """Train the site's own models and keep them here."""

    def answer(site: Site, request: TrainLocal, envelopes: Mapping[str, bytes]) -> Answer:
        workspace = Workspace.open(site, request.recipe)
        progress = ProgressLog(site.state, site.name)
        n_folds = len(workspace.splits) if request.every_fold else 1
        for fold in range(n_folds):

            def on_share(share: float, fold: int = fold) -> None:
                progress.report(protocol.LOCAL, fold + share, n_folds)

            workspace.local_model(fold, on_share)
        progress.report(protocol.LOCAL, n_folds, n_folds)
        patients, events = len(workspace.cohort), int(workspace.cohort.events.sum())
        return protocol.TrainLocalReply(protocol.band(patients), protocol.band(events)), {}

    return _handle(message, context, TrainLocal, answer)


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Send the task vector, one envelope per recipient."""

    def answer(site: Site, request: Share, envelopes: Mapping[str, bytes]) -> Answer:
        workspace = Workspace.open(site, request.recipe)
        return protocol.ShareReply(), outgoing(workspace, request.id, request.recipients)

    return _handle(message, context, Share, answer)


@app.train("merge")
def merge(message: Message, context: Context) -> Message:
    """Merge the received vectors with the site's own, and keep the enhanced models here."""

    def answer(site: Site, request: Merge, envelopes: Mapping[str, bytes]) -> Answer:
        workspace = Workspace.open(site, request.recipe)
        progress = ProgressLog(site.state, site.name)
        max_norm = min(request.max_vector_norm, site.max_vector_norm)
        vectors, refused = incoming(workspace, request.id, envelopes, max_norm)
        for sender, reason in refused.items():
            _log(site).warning("refused the vector of %s: %s", sender, reason)
        result = enhance_target(workspace, vectors, lambda done, total: progress.report(protocol.MERGE, done, total))
        return public_view(result, refused), {}

    return _handle(message, context, Merge, answer)


def _handle(
    message: Message,
    context: Context,
    request_type: type[T],
    answer: Callable[[Site, T, Mapping[str, bytes]], Answer],
) -> Message:
    """Answer a request, or refuse it: whatever an exception says stays in the site's own log."""
    log, name = logging.getLogger("fedsteph"), None
    try:
        site = site_of_node(context.node_config, context.run_config)
        log, name = _log(site), site.name
        content = protocol.parcel(message.content, "request")
        request = protocol.read(content, request_type, "request")
        with exclusive(site.state, wait=True):  # a message sent again waits, and then finds the work done
            reply, envelopes = answer(site, request, content.envelopes)
        records = protocol.pack(reply, envelopes)
    except FedstephError as error:
        log.error("refused %s: %s", message.metadata.message_type, error)
        records = protocol.pack(protocol.Refusal.of(error, name))
    except Exception as error:
        log.exception("failed in %s", message.metadata.message_type)
        records = protocol.pack(protocol.Refusal.of(error, name))
    return Message(records, reply_to=message)


def _log(site: Site) -> logging.Logger:
    """The site's log, a file of its own that no message and no server reads."""
    log = logging.getLogger(f"fedsteph.{site.name}")
    path = site.state / "site.log"
    if not any(getattr(h, "baseFilename", None) == str(path.resolve()) for h in log.handlers):
        site.state.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path.resolve(), encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.handlers = [handler]
        log.propagate = False
    return log
