"""A run in which most sites are left behind, each in another way."""

from __future__ import annotations

import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from deployment import BOASTER, SEED, STRAY, TARGET, Deployment, Process, Run, make_read_only, make_writable

from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.server.deployment.certificates import make_ca, make_node_key

GOOD, DEAD, FULL = "aunt", "kin", "cousin"  # the last one's disk is full
FILE_LIMIT = 64 << 10  # bytes; a model takes 150 KB, and nothing else that a site writes comes near


@dataclass
class Misfits:
    """One run with a target, a good source, one that dies, one with a full disk, and two that do not belong."""

    run: Run
    code: int
    written: list[str]  # files that the site with the full disk had after the run
    doctor: dict[str, str]  # what the doctor says of the changed app, while the run waits for the one that died
    strangers: dict[str, Process]  # who knocked meanwhile
    online: int  # nodes that were connected then


def run_with_misfits(deployment: Deployment) -> Misfits:
    """The good source and the target are enough, whatever the others do."""
    _stray_keys(deployment.site(STRAY))
    _change_installed_app(deployment.site(BOASTER) / "flwr")
    sites = (TARGET, GOOD, DEAD, FULL, STRAY, BOASTER)
    deployment.online(*sites)
    deployment.limit_files(FULL, FILE_LIMIT)
    run = deployment.run(sites, SEED)
    run.wait_phase("train.local")
    deployment.kill_site(DEAD)
    knocking = strangers(deployment)  # Flower needs a minute to miss the dead site
    doctor = deployment.doctor(BOASTER)["reviewed app"]
    for process in knocking.values():
        process.wait(90)
    online = deployment.n_online()
    code = run.wait()
    deployment.limit_files(FULL, resource.RLIM_INFINITY)
    state = deployment.site(FULL) / "state"
    written = sorted(path.name for path in state.rglob("*") if path.is_file())
    return Misfits(run, code, written, doctor, knocking, online)


def strangers(deployment: Deployment) -> dict[str, Process]:
    """Three SuperNodes at the door, all at once: each as the provisioned script starts it, but for one thing."""
    folder = deployment.folder / "strangers"
    folder.mkdir()
    make_node_key(folder / "own.key", folder / "own.pub")
    make_ca(folder / "other.crt", folder / "other.key", "kidney")
    changes = {
        "unregistered": {"auth.key": str(folder / "own.key")},
        "wrong CA": {"ca.crt": str(folder / "other.crt")},
        "no TLS": {
            "--root-certificates ca.crt": "--insecure --max-wait-time 5",
            "--auth-supernode-private-key auth.key": "",
        },
    }
    found = {}
    for name, replaced in changes.items():
        script = (deployment.site("aunt") / "start-supernode.sh").read_text()
        port = script.split("--port ")[1].split()[0]
        for old, new in {**replaced, f"--port {port}": f"--port {deployment.free_port()}"}.items():
            assert script.count(old) == 1
            script = script.replace(old, new)
        own = deployment.site("aunt") / f"start-{name.replace(' ', '-')}.sh"
        own.write_text(script)
        log = deployment.logs / f"{name}.log"
        found[name] = deployment.processes[name] = Process(log, [*deployment.account, "sh", str(own)], leash=False)
    return found


def models(deployment: Deployment, site: str) -> list[Path]:
    """The site's own models of every recipe."""
    return sorted(deployment.site(site).glob("state/*/fold_*/local.safetensors"))


def _stray_keys(folder: Path) -> None:
    """New keys in the old ones' place, of which the roster knows nothing."""
    shutil.rmtree(folder / "keys")
    write_identity(folder / "keys", STRAY, Identity.generate())


def _change_installed_app(home: Path) -> None:
    """Edit what Flower has installed, as someone with the right to could."""
    make_writable(home)
    [app] = home.glob("versions/*/apps/*")
    (app / "client" / "app.py").rename(app / "client" / "reviewed.py")
    shutil.copyfile(Path(__file__).with_name("changed_app.py"), app / "client" / "app.py")
    make_read_only(home)
