"""The in-process engine: runs the real ServerApp and ClientApp in one process, with Flower's serialisation."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedsteph.client.app import app as client_app
from fedsteph.client.site.site_of_node import read_sites
from fedsteph.server.app import app as server_app

_APP_RAISED = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def identify() -> None:
    """Set the ids that Flower needs to create messages in this process; Flower's own engines set them themselves."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1


class InProcessGrid(Grid):
    """A grid whose nodes run in this process, one by one as replies are pulled, all serialised as Flower does."""

    def __init__(self, app: ClientApp, n_nodes: int, run_config: dict[str, str]) -> None:
        self._app = app
        self._run_config = run_config
        self._nodes = list(range(1, n_nodes + 1))
        self._run = Run.create_empty(run_id=1)
        self._waiting: dict[str, bytes] = {}
        identify()

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message_to_proto(message).SerializeToString()
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run one waiting node and return its reply; the caller pulls again for the others."""
        for message_id in message_ids:
            if message_id in self._waiting:
                request = message_from_proto(MessageProto.FromString(self._waiting.pop(message_id)))
                reply = message_to_proto(self._answer(request)).SerializeToString()
                return [message_from_proto(MessageProto.FromString(reply))]
        return []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [reply for one in self.push_messages(messages) for reply in self.pull_messages([one])]

    def _answer(self, request: Message) -> Message:
        node = request.metadata.dst_node_id
        context = Context(
            run_id=1,
            node_id=node,
            node_config={"partition-id": node - 1, "num-partitions": len(self._nodes)},
            state=RecordDict(),
            run_config=dict(self._run_config),
        )
        try:
            return self._app(request, context)
        except Exception as error:  # noqa: BLE001 (Flower answers every exception of an app with an error)
            return Message(Error(_APP_RAISED, repr(error)), reply_to=request)


def run_in_process(run_folder: Path, app: ClientApp = client_app) -> None:
    """Run a prepared run folder's federation in this process. Raises FedstephError if the ServerApp does."""
    n_sites = len(read_sites(run_folder))
    run_config = {"run-folder": str(run_folder.resolve())}
    grid = InProcessGrid(app, n_sites, run_config)
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config))
    server_app(grid=grid, context=context)
