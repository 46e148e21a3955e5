"""What a site that does not keep to the protocol has installed in place of ``client/app.py``.

The reviewed app lies beside it as ``client/reviewed.py``.
"""

from __future__ import annotations

import json
from importlib import import_module

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsteph.common.wire import protocol

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    reply: Message = import_module("fedsteph.client.reviewed").hello(message, context)
    return reply


@app.train("local")
def train_local(message: Message, context: Context) -> Message:
    """Exact counts, which would tell the server of single patients."""
    body = json.dumps({"TrainLocalReply": {"patients": "83", "events": "41"}})
    return Message(
        RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": body})}), reply_to=message
    )
