"""Many sources and one target through a real deployment: ``python -m fedsteph.simulations.relay.crowd 50``.

SuperLink, SuperExec, the ServerApp and the whole target are real processes, as ``fedsteph provision`` makes them, on
loopback with TLS. The sources share a few processes (:mod:`fedsteph.simulations.relay.crowd_process`): each has its
own keys, node and connection, and answers by script (:mod:`fedsteph.simulations.relay.crowd_source`). Together their
envelopes take more than may travel at once (``letters.IN_THE_AIR``), so that they are delivered in batches.

Before the run, all nodes ask as often as in a run, which shows what the SuperLink bears. With ``--kill``, the ServerApp
is killed in the middle of the delivery, and the run is started again, as ``fedsteph run --resume`` does.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

from fedsteph.client.target.enhance import RESULT_FILE
from fedsteph.client.target.target_result import TargetResult
from fedsteph.common.config.digest import digest
from fedsteph.common.config.run_config import Config
from fedsteph.common.errors import EngineError, FedstephError
from fedsteph.common.host import console
from fedsteph.common.trust.keys import Identity, PublicKeys
from fedsteph.common.wire import protocol
from fedsteph.server.deployment import deployed_run
from fedsteph.server.deployment.deployed_run import Deployed
from fedsteph.server.deployment.run_history import progress_of
from fedsteph.server.outcome import Outcome
from fedsteph.simulations.bench.arguments import positive
from fedsteph.simulations.bench.figures import machine
from fedsteph.simulations.memory import looking
from fedsteph.simulations.relay.crowd_config import TARGET, configuration
from fedsteph.simulations.relay.crowd_process import Crowd, Part
from fedsteph.simulations.relay.processes import SAMPLE_SECONDS, cpu_seconds, look, running
from fedsteph.simulations.relay.trial_deployment import Trial

SCHEMA = "fedsteph/bench-crowd/v1"
_PATIENTS = 24  # of the target
_WARM_SECONDS, _LOAD_SECONDS = 30.0, 20.0  # the first: no node waits longer for its next question
_MOST_FAILURES = 10


def measure(
    sources: int, processes: int = 2, *, ask: bool = True, run: bool = True, kill: bool = False
) -> dict[str, Any]:
    """Connect a crowd, ask, run the whole federation once, and stop all processes. JSON-ready: bytes and seconds.

    Raises EngineError if a process did not start or ended too early; QuorumError if the run failed.
    """
    config = configuration(sources)
    identities = {name: Identity.generate() for name in config.federation.sites}
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine(), "sources": sources}
    with tempfile.TemporaryDirectory(prefix="fedsteph-crowd-") as scratch, ExitStack() as stack:
        policy = {"recipes": [digest(config.recipe)], "screening": "report"}  # random vectors would look suspicious
        trial = Trial(Path(scratch) / "trial", config, identities, {"page": False, "policy": policy}, _PATIENTS)
        peaks: dict[str, int] = {}
        stack.enter_context(looking(lambda: look(peaks), SAMPLE_SECONDS))
        trial.start(stack)
        crowd = stack.enter_context(Crowd(_parts(trial, config, identities, processes)))
        told = crowd.ask("connect")
        found["seconds"] = {"register": max(one[0] for one in told), "connect": max(one[1] for one in told)}
        found["questions"] = _questions(crowd) if ask else {}
        if run:
            found |= _ran(trial, config, found["seconds"], kill=kill)
            sealed = [count for part in crowd.ask("sealed") for count in part.values()]
            found["sealed"] = {"in all": sum(sealed), "most by one": max(sealed)}
        look(peaks)
        found["peak_rss_bytes"] = peaks
    return found


def _ran(trial: Trial, config: Config, before: Mapping[str, float], *, kill: bool) -> dict[str, Any]:
    """What one run took, and what came of it."""
    deployed, began = deployed_run.prepare(trial.server, config), time.monotonic()
    outcome = _killed_and_resumed(trial, deployed) if kill else deployed_run.run(trial.server, deployed)
    whole = {"whole run": round(time.monotonic() - began, 1)}
    database = trial.server.database
    return {
        "seconds": {**before, **outcome.seconds, **whole},
        "failures": [str(failure) for failure in outcome.failures][:_MOST_FAILURES],
        "merged": _merged(trial),
        "bytes": {
            "relayed": outcome.bytes,
            "database": sum(file.stat().st_size for file in database.parent.glob(f"{database.name}*")),
        },
    }


def _parts(trial: Trial, config: Config, identities: Mapping[str, Identity], processes: int) -> list[Part]:
    keys = trial.server.flwr_home.parent / "crowd"
    keys.mkdir(mode=0o700)
    target = identities[TARGET].public
    names = config.federation.sites[1:]
    size = math.ceil(len(names) / processes)
    return [
        Part(
            names=names[first : first + size],
            # Without the key objects that they have made by now: those do not travel to another process.
            identities=tuple(Identity(**_seeds(identities[name])) for name in names[first : first + size]),
            target=TARGET,
            target_keys=PublicKeys(target.sign, target.seal),
            width=int(config.model.width or 0),
            seed=first,
            server=trial.server,
            keys=keys,
        )
        for first in range(0, len(names), size)
    ]


def _seeds(identity: Identity) -> dict[str, bytes]:
    return {"sign_seed": identity.sign_seed, "seal_seed": identity.seal_seed}


def _questions(crowd: Crowd) -> dict[str, float]:
    """What the SuperLink bears: questions a second, how long one takes, and its CPU time for one."""
    before = cpu_seconds("SuperLink"), time.monotonic()
    waits = sorted(wait for part in crowd.ask("measure", _WARM_SECONDS, _LOAD_SECONDS) for wait in part)
    used, passed = cpu_seconds("SuperLink") - before[0], time.monotonic() - before[1]
    rate = len(waits) / _LOAD_SECONDS
    return {
        "per second": rate,
        "median": statistics.median(waits),
        "95%": waits[int(0.95 * len(waits))],
        "SuperLink's cores": used / passed,
        "SuperLink's CPU seconds each": used / passed / rate,
    }


def _killed_and_resumed(trial: Trial, deployed: Deployed) -> Outcome:
    Thread(target=_kill_in_delivery, args=(deployed.path,), daemon=True).start()
    try:
        deployed_run.run(trial.server, deployed)
    except EngineError as error:
        console.tell(f"killed: {error}")
    else:
        raise EngineError("the run ended before it could be killed", where="crowd")
    return deployed_run.run(trial.server, deployed_run.resume(trial.server, deployed.config))


def _kill_in_delivery(run: Path) -> None:
    while (status := progress_of(run)) is None or status.phase != protocol.DELIVER:
        time.sleep(0.1)
    for role, process in running():
        if role == "ServerApp":
            process.kill()


def _merged(trial: Trial) -> int:
    """How many sources' vectors the target has merged."""
    folds = TargetResult.read(trial.site / "state" / RESULT_FILE).steph.sources
    return min(len(fold) for fold in folds)


def show(found: Mapping[str, Any]) -> None:
    """The figures as a table."""
    rows = [[f"{what}, s", f"{seconds:.1f}"] for what, seconds in found["seconds"].items()]
    rows += [[f"questions to the SuperLink, {what}", f"{value:.4g}"] for what, value in found["questions"].items()]
    rows += [[f"peak of {role}, MB", f"{peak / 1e6:,.0f}"] for role, peak in found["peak_rss_bytes"].items()]
    rows += [[f"{what}, MB", f"{size / 1e6:,.0f}"] for what, size in found.get("bytes", {}).items()]
    rows += [[f"envelopes sealed, {what}", f"{count}"] for what, count in found.get("sealed", {}).items()]
    rows += [["sources merged", f"{found['merged']}"]] if "merged" in found else []
    console.show_table(["", ""], rows, f"{found['sources']} sources, one target")
    for failure in found.get("failures", []):
        console.tell(failure)


def main(words: list[str] | None = None) -> int:
    """Measure one crowd; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fedsteph.simulations.relay.crowd", description=__doc__)
    parser.add_argument("sources", type=positive)
    parser.add_argument("--processes", type=positive, default=2, help="that the sources share")
    parser.add_argument("--no-questions", action="store_false", dest="ask", help="only the run")
    parser.add_argument("--no-run", action="store_false", dest="run", help="only ask, before any run")
    parser.add_argument("--kill", action="store_true", help="kill the ServerApp in the middle of the delivery")
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args(words)
    try:
        found = measure(given.sources, given.processes, ask=given.ask, run=given.run, kill=given.kill)
    except FedstephError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if given.as_json:
        console.show_json(found)
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
