"""A whole run, as its coordinator starts it: TLS, node keys, process isolation, read-only reviewed apps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from deployment import MEMBERS, TARGET, Deployment, Run
from foreign import imported
from misfits import FILE_LIMIT, FULL, GOOD, models

from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.deployment.tls import ask
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.trust.audit_log import verify
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector

pytestmark = pytest.mark.flower
SOURCES = (FULL,)  # and what the target kept of another's
SITES = (TARGET, *SOURCES)
BLOCK = 32


def test_it_ends_with_0_and_the_targets_scores(whole_run):
    """Standard output is the results and nothing else."""
    assert whole_run.wait() == 0, whole_run.said
    results = whole_run.results
    assert results["failures"] == [] and set(results["sites"]) == {*SITES}
    assert {site["patients"] for site in results["sites"].values()} == {"80-89"}
    [(name, scores)] = results["targets"].items()
    assert name == TARGET and scores["refused"] == [] and scores["kept"] == [GOOD]
    told = {score["method"]: score["c_index"] for score in scores["scores"]}
    assert list(told) == ["local", "model_average", "steph", "panel", "deployed"]
    assert all(0 <= value <= 1 for value in told.values())


def test_it_went_on_across_a_renewed_certificate(deployment, whole_run):
    """Which is the one that the SuperLink shows now."""
    new, old = (
        x509.load_pem_x509_certificate((deployment.server / name).read_bytes())
        for name in ("server.crt", "server.crt.previous")
    )
    assert ask(deployment.address, deployment.server / "ca.crt").expires == new.not_valid_after_utc
    assert new.not_valid_after_utc > old.not_valid_after_utc and whole_run.wait() == 0


def test_no_process_imported_another_s_file_of_one_of_our_names(deployment, whole_run):
    assert (deployment.logs / "client.py").exists() and imported(deployment.logs) == []


def test_enhanced_models_lie_at_the_target_only(deployment, whole_run):
    found = {}
    for place in (*(deployment.site(site) for site in MEMBERS), deployment.server):
        found[place.name] = {path.name for path in place.rglob("*.safetensors")}
    inner = {"inner_0_of_2.safetensors", "inner_1_of_2.safetensors"}
    enhanced = {"steph.safetensors", "panel.safetensors", "fold_0.safetensors", "fold_1.safetensors"}
    final = {"member_0.safetensors", "model_of_1.safetensors", "model.safetensors"}
    assert found[TARGET] == {"local.safetensors", *inner, *enhanced, *final}
    assert found[GOOD] == found[FULL] == {"local.safetensors"}
    assert found["kin"] <= {"local.safetensors"} and found["server"] == set()


def test_the_site_whose_disk_was_full_completes_and_nobody_trains_again(deployment, whole_run):
    assert whole_run.trained
    assert {path: path.stat().st_mtime_ns for path in models(deployment, TARGET)} == whole_run.trained
    [relayed] = [
        line.event
        for line in deployment.audit(deployment.server, whole_run)
        if (line.event.event, line.event.peer) == ("envelope.relay", f"{FULL} -> {TARGET}")
    ]
    assert relayed.size is not None and relayed.size > FILE_LIMIT


def test_the_coordinator_and_the_target_have_a_page_each(deployment, whole_run):
    """The target's shows its patients' outcomes and stays there; the coordinator's tells what the policies let out."""
    own = deployment.site(TARGET) / "state" / "report"
    assert (own / "figures" / f"{TARGET}.risk-groups.panel.svg").is_file()
    told = (whole_run.folder / "report" / "index.html").read_text()
    assert "80-89" in told and f"{FULL} -&gt; {TARGET}" in told
    assert "data:image/svg" in (own / "index.html").read_text()
    assert not list(deployment.server.rglob("*.svg"))
    for source in SOURCES:
        assert not (deployment.site(source) / "state" / "report").exists()


def test_status_tells_both_sides_how_they_are(deployment, whole_run, cli):
    """By the names that the folders have and Flower has; a hello told which node is which site."""
    code, out, _ = cli("status", deployment.server, "--json")
    found = json.loads(out)
    last = found["runs"][0]
    assert (last["run"], last["outcome"], whole_run.name) == (whole_run.folder.name, "done", whole_run.folder.name)
    assert last["flower"] in {run["run-id"] for run in deployment.flwr("ls", "fedsteph")["runs"]}
    assert f"run {last['run']}; in Flower's own lists and logs: {last['flower']}" in whole_run.said
    connected = {site["site"] for site in found["sites"] if site["connected"]}
    assert connected == {*SITES} and code == 0, found["problems"]
    site = json.loads(cli("status", deployment.site(TARGET), "--json")[1])
    assert site["last_run"]["run"] == last["run"] and site["connection"]["reachable"]
    assert (site["connection"]["supernode"], site["connection"]["superexec"]) == (True, True)
    assert site["kept"]["count"] >= 1 and not [one for one in site["problems"] if one["kind"] != "doctor"]


def test_every_audit_log_holds_together(deployment, whole_run):
    """And the server knows a hash of each site's, from its hello, so that none can be rewritten unseen."""
    joined = {
        line.event.peer: line.event.artefact
        for line in deployment.audit(deployment.server, whole_run)
        if line.event.event == "site.join"
    }
    assert set(joined) == {*SITES}
    for site in SITES:
        assert verify(deployment.site(site) / "audit", joined[site]).lines >= 3
    assert verify(deployment.server / "audit").lines >= 3


def test_what_the_server_relayed_is_what_was_sealed_and_what_was_opened(deployment, whole_run):
    """One envelope of each source, under the same SHA-256 and size in three audit logs."""

    def artefacts(folder: Path, event: str) -> dict[str | None, tuple[str | None, int | None]]:
        lines = [line.event for line in deployment.audit(folder, whole_run) if line.event.event == event]
        assert all(line.decision == "allowed" for line in lines)
        return {line.peer: (line.artefact, line.size) for line in lines}

    relayed = artefacts(deployment.server, "envelope.relay")
    assert set(relayed) == {f"{source} -> {TARGET}" for source in SOURCES}
    opened = artefacts(deployment.site(TARGET), "vector.open")
    assert opened == {source: relayed[f"{source} -> {TARGET}"] for source in SOURCES}
    for source in SOURCES:
        assert artefacts(deployment.site(source), "vector.seal") == {TARGET: relayed[f"{source} -> {TARGET}"]}


# ---------------------------------------------------------------- what the server could have kept


def kept_by_server(deployment: Deployment) -> bytes:
    """All bytes of the server's folder, its database included, and of its processes' logs; code left out."""
    folders = [path for path in deployment.server.rglob("*") if not {"app", "apps"} & {*path.parts}]
    files = [path for path in (*folders, *deployment.logs.glob("server-*")) if path.is_file()]
    assert {"superlink.db", "superlink.db-wal", "server-superlink.log", "server-run-0.out"} <= {f.name for f in files}
    return b"\0\0\0\0".join(path.read_bytes() for path in files)


def plain_files(deployment: Deployment, run: Run) -> dict[str, bytes]:
    """Each site's vector file, made again from the model that it keeps, and every model at any site."""
    recipe = deployment.config(run).recipe
    found = {}
    for name in SITES:
        model = Workspace.open(Site.open(deployment.site(name)), recipe).local_model(0)
        found[name] = write_vector(TaskVector.between(model, pinned_model(recipe.model)))
        for path in deployment.site(name).rglob("*.safetensors"):
            found[str(path)] = path.read_bytes()
    return found


def leaks(kept: bytes, plains: dict[str, bytes]) -> set[str]:
    """Whose tensors have any 64 bytes in a row in what was kept: those contain a whole block at a multiple of 32."""
    wanted = {}
    for name, file in plains.items():
        tensors = file[8 + int.from_bytes(file[:8], "little") :]
        wanted |= {tensors[i : i + BLOCK]: name for i in range(0, len(tensors) - BLOCK + 1, BLOCK)}
    windows = (kept[i : i + BLOCK] for i in range(len(kept) - BLOCK + 1))
    return {wanted[window] for window in windows if window in wanted and len({*window}) > 2}


def test_the_server_keeps_nothing_of_a_vector(deployment, whole_run):
    """The envelopes went through its database; no 64 bytes of any vector or model are in it or in a log."""
    kept, plains = kept_by_server(deployment), plain_files(deployment, whole_run)
    assert kept.count(b"fedsteph/v3/envelope") >= len(SOURCES), "not all that the server relays was looked at"
    assert leaks(kept, plains) == set()
    piece = plains[FULL][-200:-136]
    assert leaks(kept[:1001] + piece, plains), "the search would find 64 bytes"
    header = json.loads(plains[FULL][8 : 8 + int.from_bytes(plains[FULL][:8], "little")])
    names = [name for name in header if name != "__metadata__"]
    assert {"embed.weight", "attention_c.weight"} < {*names}
    spelt = [f'"{name}":{{'.encode() for name in names]  # the bare names stand in the reviewed app's code
    assert [name for name in spelt if name in kept] == [] and spelt[0] in plains[FULL]


def test_the_server_keeps_no_patient_and_no_slide(deployment, whole_run):
    kept = kept_by_server(deployment)
    labels = (deployment.site(GOOD) / "labels.csv").read_text()
    assert labels.count(f"{GOOD}-patient-P0") > 80, "the ids that are searched for"
    assert re.search(rb"-patient-|P\d{3}-DX\d", kept) is None
