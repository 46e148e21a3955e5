"""The ServerApp of the relay benchmark: times repeated ``query.hello`` and ``train.merge`` exchanges with one target.

It replaces fedsteph's ServerApp in an assembled app, so it may import only modules of the app.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import QuorumError
from fedsteph.common.host import checked_file
from fedsteph.common.wire import messages, protocol
from fedsteph.common.wire.letters import Letter
from fedsteph.common.wire.messages import RunId
from fedsteph.server.exchange import Round, exchange
from fedsteph.server.manifest import CONFIG_FILE, read_manifest

ENVELOPES = "envelopes"
REPEATS_FILE = "repeats.json"
FIGURES_FILE = "figures.json"
EXPECTED = "RecipePolicyError"
_DEADLINE_SECONDS = 900.0
_JOIN_SECONDS = 60.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask for a hello, then deliver every envelope to a target that refuses the recipe."""
    folder = Path(str(context.run_config["run-folder"]))
    config = load_config(folder / CONFIG_FILE)
    manifest = read_manifest(folder)
    repeats = int(checked_file.read_json(folder / REPEATS_FILE)["repeats"])
    run = RunId(config.federation.name, manifest["run"], manifest["digests"]["roster"])
    envelopes = {path.name: path.read_bytes() for path in sorted((folder / ENVELOPES).iterdir())}
    node = _node(grid)

    # The first hello also installs the app at the site and fills its disk cache, so it is reported separately.
    hello = [_hello(grid, node, run) for _ in range(1 + repeats)]
    letters = tuple(Letter(name, hashlib.sha256(content).hexdigest()) for name, content in envelopes.items())
    merge = messages.Merge(run, config.recipe, config.federation.max_vector_norm, letters=letters)
    merges = [_refused(grid, node, protocol.pack(merge, envelopes)) for _ in range(repeats)]
    figures = {
        "first_hello": hello[0].seconds,
        "hello": [found.seconds for found in hello[1:]],
        "merge": [found.seconds for found in merges],
        "bytes": merges[0].bytes_sent,
    }
    checked_file.write_json(folder / FIGURES_FILE, figures)


def _node(grid: Grid) -> int:
    until = time.monotonic() + _JOIN_SECONDS
    while not (nodes := list(grid.get_node_ids())):
        if time.monotonic() > until:
            raise QuorumError("the target did not join", where="bench")
        time.sleep(0.2)
    return nodes[0]


def _hello(grid: Grid, node: int, run: RunId) -> Round:
    found = exchange(grid, protocol.HELLO, {node: protocol.pack(messages.Hello(run))}, _DEADLINE_SECONDS)
    if found.failures:
        raise QuorumError(f"no hello: {found.failures[node]}", where="bench")
    protocol.read(found.answers[node], messages.HelloReply, "hello")
    return found


def _refused(grid: Grid, node: int, request: RecordDict) -> Round:
    """One delivery; the target has received the whole message when it refuses."""
    found = exchange(grid, protocol.MERGE, {node: request}, _DEADLINE_SECONDS)
    if found.failures:
        raise QuorumError(f"no answer to the merge: {found.failures[node]}", where="bench")
    refusal = protocol.read(found.answers[node], messages.Refusal, "merge")
    if refusal.kind != EXPECTED:
        raise QuorumError(f"the target answered otherwise: {asdict(refusal)}", where="bench")
    return found
