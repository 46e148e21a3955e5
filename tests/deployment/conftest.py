"""One deployment for this whole folder, and the run that more than one test looks at.

What is covered, by file; each scenario is one run, made once, which several tests look at:

test_exit_codes.py       no SuperLink: 1; Ctrl-C: 130, and the run is stopped
test_kept_out.py         an unregistered node, a wrong CA, no TLS; and in one run a site with keys that are not the
                         roster's, one whose installed app was changed, one with a full disk, one killed in training
test_reviewed_code.py    a run of other code, whose version leads out of the read-only folder: refused by every site
                         before any of it was unpacked or ran
test_whole_run.py        TLS, node keys, process isolation, read-only apps: results, models, audits, nothing in the
                         clear; kill -9 of the SuperLink, which comes back; the site whose disk was full completes

The sites' processes are bound by file permissions even where the tests run as root.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from deployment import SEED, TARGET, Deployment, Run, wait_for
from misfits import FULL, GOOD, Misfits, models, run_with_misfits

from fedsteph.client.deployment.app_versions import VERSIONS, current
from fedsteph.client.deployment.reviewed_app import installed
from fedsteph.common.config.run_config import load_config
from fedsteph.common.deployment.flower_app import assemble
from fedsteph.common.deployment.flower_programs import Flower
from fedsteph.common.host.progress_log import read_progress
from fedsteph.common.model.initial_model import pin_m0
from fedsteph.server.deployment import deployed_run as server_deployment
from fedsteph.server.deployment.server_file import ServerFile

collect_ignore = [] if sys.platform == "linux" else [path.name for path in Path(__file__).parent.glob("test_*.py")]


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Provisioned, with a running SuperLink and SuperExec; each test says which sites it wants online."""
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        made.make()
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class ChangedCode:
    """A run of an app that the sites have not reviewed, made by a server that wants it to run there."""

    status: str
    outcome: Path
    ran: Path  # the changed code leaves a file here, named after the FLWR_HOME that it ran from
    processes: dict[str, list[int]]  # of the sites


@pytest.fixture(scope="session")
def changed_code(deployment: Deployment) -> ChangedCode:
    """The reviewed app and one line more, which shows where it runs, under a version that is a way out of ``flwr/``.

    Flower makes the folder that it unpacks into, and loads from, out of the version: below the reviewed app's own
    folder, five up, and into the one place where the site's account can write.
    """
    deployment.online(TARGET, GOOD, FULL)
    ran = deployment.folder / "ran"
    ran.mkdir()
    server = ServerFile.open(deployment.server)
    config = pin_m0(load_config(server.config, [f"federation.sites=[{TARGET}, {GOOD}, {FULL}]"]))
    prepared = server_deployment.prepare(server, config)
    app = assemble(deployment.folder / "changed" / "fedsteph")
    name = "os.environ['FLWR_HOME'].split('/flwr')[0].rpartition('/')[2]"
    line = f"import os, pathlib; pathlib.Path({str(ran)!r}, {name}).touch()\n"
    module = app / "common" / "__init__.py"
    module.write_text(module.read_text() + line)
    flwr = deployment.site(GOOD) / "flwr"
    [reviewed] = installed(flwr / VERSIONS / current(flwr))
    project = app / "pyproject.toml"
    way_out = f"{reviewed.name.removeprefix('fedsteph.fedsteph.')}/../../../../../state/evil"
    text, n = re.subn(r'(?m)^version = ".*"$', f'version = "{way_out}"', project.read_text(), count=1)
    assert n == 1 and way_out.startswith("0.1.0.")
    project.write_text(text)
    run_config = deployment.folder / "changed" / "run.toml"
    run_config.write_text(f'run-folder = "{prepared.path}"\n')
    flower = Flower(server.flwr_home, deployment.logs)
    status = flower.wait(flower.start(app, run_config), prepared.outcome.exists, 60)
    return ChangedCode(status, prepared.outcome, ran, deployment.program_ids())


@pytest.fixture(scope="session")
def misfits(deployment: Deployment) -> Misfits:
    return run_with_misfits(deployment)


@dataclass
class WholeRun(Run):
    """A finished run, and when each of the target's own models was written before it."""

    trained: dict[Path, int]


@pytest.fixture(scope="session")
def whole_run(deployment: Deployment, misfits: Misfits, changed_code: ChangedCode) -> WholeRun:
    """The coordinator's ``fedsteph run``, finished; on the sites' processes that refused the changed code before.

    It is the recipe of the run with the misfits, whose good source takes no part now: the target kept its vector, and
    merges it with that of the site which had no room. The SuperLink is killed while that site trains, and starts again
    with its database.
    """
    sites = (TARGET, FULL)
    trained = {path: path.stat().st_mtime_ns for path in models(deployment, TARGET)}
    deployment.online(*sites)
    deployment.draw_page(TARGET, True)
    nodes = [deployment.processes[f"{site}-supernode"] for site in sites]
    asked = "Receiving: train.local"
    before = [node.text().count(asked) for node in nodes]
    run = deployment.run(sites, SEED, "federation.reuse=true")
    run.wait_phase("train.local")
    # Flower takes a request for delivered that is lost on its way when the SuperLink dies.
    for node, count in zip(nodes, before, strict=True):
        wait_for("the sites to have their requests", lambda node=node, n=count: node.text().count(asked) > n, 60)
    progress = read_progress((run.folder / "server" / "progress.jsonl").read_text())
    assert not [now for now in progress if now.phase == "train.local" and now.done == now.total], "it has answered"
    deployment.processes["superlink"].kill()
    deployment.renew_certificate()
    deployment.start_superlink()
    if run.wait() == 0:  # the page is drawn after the answer has left
        page = deployment.site(TARGET) / "state" / "report" / "index.html"
        wait_for("the target's page", page.exists, 120)
    deployment.draw_page(TARGET, False)
    return WholeRun(run.process, run.stdout, trained)
