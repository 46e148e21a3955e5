"""What a site that does not keep to the protocol has installed in place of ``client/app.py``.

The file ``way`` beside it says how it answers. The reviewed app lies beside it, too, as ``client/reviewed.py``.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsteph.common.wire import protocol
from fedsteph.common.wire.messages import HelloReply

WAY = Path(__file__).with_name("way").read_text()

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    if WAY == "forger":  # another's name, without its key
        records = protocol.pack(HelloReply("aunt", "0.1.0", "test-encoder", 6, "0" * 64, "ab" * 64))
    elif WAY == "recorder":  # records that the protocol does not have
        records = RecordDict({"fedsteph": MetricRecord({"patients": 80}), "labels.csv": MetricRecord({"t": [9.5]})})
    elif WAY == "babbler":  # as large as a body may be, and deep enough to overturn a parser
        records = RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": "[" * (1 << 20)})})
    else:
        reply: Message = import_module("fedsteph.client.reviewed").hello(message, context)
        return reply
    return Message(records, reply_to=message)


@app.train("local")
def train_local(message: Message, context: Context) -> Message:
    """Exact counts, which would tell the server of single patients."""
    body = json.dumps({"TrainLocalReply": {"patients": "83", "events": "41"}})
    return Message(
        RecordDict({"fedsteph": ConfigRecord({"version": protocol.VERSION, "body": body})}), reply_to=message
    )
