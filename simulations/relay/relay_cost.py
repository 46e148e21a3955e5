"""``fedsteph measure relay``: measures time, memory and bytes of relaying envelopes through a real deployment.

The deployment runs on loopback, as ``fedsteph provision`` makes it. One ``train.merge`` delivers an envelope from each
source to the target, whose policy allows only another recipe: it refuses the message as soon as it has all of it, so
only the delivery is measured. A ``query.hello`` before it shows Flower's own cost per message: its polling, and the
start of a ClientApp process with its imports.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedsteph.common.config.digest import digest
from fedsteph.common.config.run_config import Config, load_config
from fedsteph.common.host import atomic, checked_file
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import pin_m0
from fedsteph.common.trust.keys import Identity
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.envelope import Context, seal
from fedsteph.server.deployment import deployed_run
from fedsteph.server.deployment.deployed_run import Deployed
from fedsteph.server.manifest import read_manifest
from fedsteph.simulations.bench.figures import Spread
from fedsteph.simulations.memory import looking
from fedsteph.simulations.relay import relay_app
from fedsteph.simulations.relay.processes import SAMPLE_SECONDS, look
from fedsteph.simulations.relay.sealing import random_vector
from fedsteph.simulations.relay.trial_deployment import Trial

SCHEMA = "fedsteph/bench-relay/v1"
_FEDERATION, _TARGET = "bench", "target"


def measure(sources: int, repeats: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Start a deployment, deliver ``sources`` envelopes ``repeats`` times, and stop all processes.

    Returns JSON-ready: bytes, and spreads in seconds. Raises EngineError if a process did not start, or the target did
    not refuse as expected.
    """
    names = [f"source-{index:03}" for index in range(1, sources + 1)]
    config = _config(names, settings)
    identities = {name: Identity.generate() for name in (_TARGET, *names)}
    with tempfile.TemporaryDirectory(prefix="fedsteph-bench-") as scratch:
        trial = Trial(Path(scratch) / "trial", config, identities)
        peaks: dict[str, int] = {}
        with ExitStack() as stack:
            stack.enter_context(looking(lambda: look(peaks), SAMPLE_SECONDS))
            trial.start(stack)
            deployed = deployed_run.prepare(trial.server, config)
            envelope = _seal_all(deployed, identities)
            checked_file.write_json(deployed.path / relay_app.REPEATS_FILE, {"repeats": repeats})
            path = deployed.path / relay_app.FIGURES_FILE
            trial.run(deployed, Path(relay_app.__file__), path.exists)
            look(peaks)
            figures = checked_file.read_json(path)
            database = trial.server.database
            kept = sum(file.stat().st_size for file in database.parent.glob(f"{database.name}*"))
    return {
        "sources": sources,
        "bytes": {"envelope": envelope, "merge": figures["bytes"], "database_after": kept},
        "seconds": {
            "first_hello": figures["first_hello"],
            "hello": asdict(Spread.of(figures["hello"])),
            "merge": asdict(Spread.of(figures["merge"])),
        },
        "peak_rss_bytes": peaks,
    }


def _config(names: Sequence[str], settings: Sequence[str]) -> Config:
    own = [
        "model.width=1536",
        f"federation.name={_FEDERATION}",
        f"federation.sites=[{_TARGET},{names[0]}]",
        f"federation.targets=[{_TARGET}]",
    ]
    return pin_m0(load_config(None, [*own, *settings]))


def _seal_all(deployed: Deployed, identities: Mapping[str, Identity]) -> int:
    """Write every source's envelope to where the ServerApp reads it; returns the size of one in bytes."""
    model, size = deployed.config.model, 0
    architecture, m0 = Architecture.of(model), str(model.m0_sha256)
    plain = write_vector(random_vector(architecture, m0))
    run = read_manifest(deployed.path)["run"]
    for name, sender in identities.items():
        if name != _TARGET:
            recipe = digest(deployed.config.recipe)
            context = Context(_FEDERATION, run, name, _TARGET, m0, architecture.digest, recipe)
            envelope = seal(plain, context, 1, sender, identities[_TARGET].public)
            atomic.write_bytes(deployed.path / relay_app.ENVELOPES / name, envelope)
            size = len(envelope)
    return size
