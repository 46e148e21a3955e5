"""Nodes that do not get in, and sites that get in and are left behind, each with its reason."""

from __future__ import annotations

import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from deployment import (
    BABBLER,
    BOASTER,
    CHANGED,
    FILE_LIMIT,
    FORGER,
    PINNER,
    RECORDER,
    SEED_KEPT_OUT,
    STRAY,
    TARGET,
    Deployment,
    Process,
    Run,
    make_read_only,
    make_writable,
    wait_for,
)

from fedsteph.common.host.progress_log import read_progress
from fedsteph.common.trust.key_file import write_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Entry, Roster, read_roster, write_roster
from fedsteph.server.deployment.certificates import make_ca, make_node_key

pytestmark = pytest.mark.flower
FULL = "cousin"  # the site whose disk is full
HONEST = (TARGET, "kin", FULL)
MISFITS = (STRAY, PINNER, *CHANGED)


# ---------------------------------------------------------------- kept out by Flower


@pytest.fixture(scope="module")
def strangers(deployment) -> dict[str, Process]:
    """Three SuperNodes at the door, all at once: each as the provisioned script starts it, but for one thing."""
    deployment.online(TARGET, "kin")
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unregistered", "Failed to activate SuperNode"),
        ("wrong CA", "CERTIFICATE_VERIFY_FAILED"),
        ("no TLS", "Giving up reconnection"),
    ],
)
def test_a_strangers_node_does_not_get_in(strangers, name, reason):
    assert strangers[name].wait(90) == 1
    assert reason in strangers[name].text()
    assert "SuperNode ID" not in strangers[name].text()


def test_the_superlink_knows_none_of_the_strangers(deployment, strangers):
    for process in strangers.values():
        process.wait(90)
    nodes = deployment.flwr("supernode", "list", "fedsteph")["nodes"]
    assert sum(node["status"] == "online" for node in nodes) == 2


# ---------------------------------------------------------------- left behind by name


@dataclass
class Misfits:
    """One run with a target, a good source, one with a full disk, and six sites that do not belong."""

    run: Run
    code: int
    written: list[str]  # files that the site with the full disk had after the run


@pytest.fixture(scope="module")
def misfits(deployment) -> Misfits:
    stray_keys(deployment.site(STRAY))
    other_roster(deployment, deployment.site(PINNER))
    for name in CHANGED:
        change_installed_app(deployment.site(name) / "flwr", name)
    deployment.online(*HONEST, *MISFITS)
    deployment.limit_files(FULL, FILE_LIMIT)
    run = deployment.run((*HONEST, *MISFITS), SEED_KEPT_OUT)
    code = run.wait()
    deployment.limit_files(FULL, resource.RLIM_INFINITY)
    state = deployment.site(FULL) / "state"
    return Misfits(run, code, sorted(path.name for path in state.rglob("*") if path.is_file()))


def stray_keys(folder: Path) -> None:
    """New keys in the old ones' place, of which the roster knows nothing."""
    shutil.rmtree(folder / "keys")
    write_identity(folder / "keys", STRAY, Identity.generate())


def other_roster(deployment: Deployment, folder: Path) -> None:
    """The same roster with one site more, pinned as if all had agreed on it."""
    agreed = read_roster(deployment.server / "roster.yaml")
    more = Entry.of("mallory", Identity.generate().public, cancer="any", contact="any")
    write_roster(folder / "other.yaml", Roster(agreed.federation, (*agreed.sites, more)))
    deployment.pin(PINNER, folder / "other.yaml", read_roster(folder / "other.yaml").digest)


def change_installed_app(home: Path, way: str) -> None:
    """Edit what Flower has installed, as someone with the right to could."""
    make_writable(home)
    [app] = (home / "apps").iterdir()
    (app / "client" / "app.py").rename(app / "client" / "reviewed.py")
    shutil.copyfile(Path(__file__).with_name("changed_app.py"), app / "client" / "app.py")
    (app / "client" / "way").write_text(way)
    make_read_only(home)


def test_the_run_goes_on_and_ends_with_2(misfits):
    """A target and one good source are a federation, whatever the others send."""
    assert misfits.code == 2, misfits.run.said
    assert set(misfits.run.results["targets"]) == {TARGET}
    assert set(misfits.run.results["sites"]) >= {TARGET, "kin"}


@pytest.mark.parametrize(
    ("site", "phase", "reason"),
    [
        (STRAY, "query.hello", "the site is not set up for this federation (MembershipError)"),
        (PINNER, "query.hello", "the site's roster is not the federation's (RosterError)"),
        (BOASTER, "train.local", "its answer: its body is not a TrainLocalReply"),
        (FULL, "train.local", "the site could not read or write its disk, and its log has the details (StorageError)"),
        (FORGER, "query.hello", "no node said that it is this site"),
        (RECORDER, "query.hello", "no node said that it is this site"),
        (BABBLER, "query.hello", "no node said that it is this site"),
    ],
)
def test_each_is_named_with_phase_and_reason(misfits, site, phase, reason):
    found = misfits.run.failures[site]
    assert found[0] == phase and found[1].startswith(reason)
    assert f"{site} failed in {phase}: {reason}" in misfits.run.said.splitlines()[-1]


@pytest.mark.parametrize(
    "reason",
    [
        "it says that it is aunt, and does not sign as the roster's aunt does",
        "its answer: is not a fedsteph message",
        "its body is not a HelloReply",
    ],
)
def test_a_node_that_proves_no_name_is_known_by_its_number(misfits, reason):
    """The forger, the one with strange records, and the one with a megabyte of brackets."""
    nodes = [found for name, found in misfits.run.failures.items() if name.startswith("node ")]
    assert len(nodes) == 3 and all(phase == "query.hello" for phase, _ in nodes)
    assert sum(reason in text for _, text in nodes) == 1


def test_no_exact_count_of_the_boaster_is_kept(deployment, misfits):
    kept = [path.read_text() for path in misfits.run.folder.glob("**/*.json")] + [misfits.run.said]
    assert len(kept) >= 3
    assert [text for text in kept if '"83"' in text or '"41"' in text] == []


def test_the_doctor_sees_that_an_installed_app_was_changed(deployment, misfits):
    """Flower does not look again at what is installed."""
    with ThreadPoolExecutor() as pool:
        changed, honest = (found["reviewed app"] for found in pool.map(deployment.doctor, (BOASTER, "kin")))
    assert changed["verdict"] == "FAIL" and "the installed app is not the code of this fedsteph" in changed["found"]
    # The tests' own account installed it.
    assert honest["verdict"] == "PASS" or "this account can change" in honest["found"]


# ---------------------------------------------------------------- a full disk


def test_a_full_disk_leaves_no_part_of_a_model(misfits):
    """The model that was being written is gone, and nothing is there that could be taken for it."""
    assert misfits.written and not [name for name in misfits.written if "local" in name or name.endswith(".part")]


@pytest.fixture(scope="module")
def trained(deployment, misfits) -> dict[Path, int]:
    """The target's own models after the run in which another site's disk was full, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in models(deployment, TARGET)}


@pytest.fixture(scope="module")
def room_again(deployment, trained) -> Run:
    """The same recipe at the same sites' processes; the SuperLink is killed while the one that had no room trains."""
    deployment.online(TARGET, FULL)
    node = deployment.processes[f"{FULL}-supernode"]
    before = node.text().count("Receiving: train.local")
    run = deployment.run((TARGET, FULL), SEED_KEPT_OUT)
    run.wait_phase("train.local")
    wait_for("the site to have its request", lambda: node.text().count("Receiving: train.local") > before, 60)
    progress = read_progress((run.folder / "server" / "progress.jsonl").read_text())
    assert not [now for now in progress if now.phase == "train.local" and now.done == now.total], "it has not answered"
    deployment.processes["superlink"].kill()
    deployment.start_superlink()
    run.wait()
    return run


def test_with_room_again_the_same_site_completes(deployment, trained, room_again):
    """What the others had trained is taken up again."""
    assert room_again.wait() == 0, room_again.said
    assert {path: path.stat().st_mtime_ns for path in models(deployment, TARGET)} == trained
    [relayed] = [
        line.event
        for line in deployment.audit(deployment.server, room_again)
        if (line.event.event, line.event.peer) == ("envelope.relay", f"{FULL} -> {TARGET}")
    ]
    assert relayed.size is not None and relayed.size > FILE_LIMIT


def test_a_run_survives_the_superlink(room_again):
    """Started again with its database: the run completed, and nobody is missed."""
    assert room_again.wait() == 0, room_again.said
    assert set(room_again.results["sites"]) == {TARGET, FULL} and set(room_again.results["targets"]) == {TARGET}
    assert room_again.results["failures"] == []


def models(deployment: Deployment, site: str) -> list[Path]:
    """The site's own models of every recipe."""
    return sorted(deployment.site(site).glob("state/*/fold_*/local.safetensors"))
