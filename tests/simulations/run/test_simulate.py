"""``fedsteph simulate`` as its user runs it: small sites, real cohorts, Flower's engine, kills and bad input."""

from __future__ import annotations

import io
import json
import math
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from endings import has_ended
from foreign import imported, plant
from reports import fedsteph
from sites import TINY, make_site

from fedsteph.client.models.model_file import load_model, save_base
from fedsteph.client.site.site_of_node import read_sites
from fedsteph.client.training import survival_fit
from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.config.run_config import load_config
from fedsteph.common.errors import EngineError, QuorumError
from fedsteph.common.host.checked_file import read_json, write_json
from fedsteph.common.host.lock import exclusive
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.trust.audit_log import read_lines, verify
from fedsteph.common.trust.key_file import read_identity
from fedsteph.common.trust.keys import Identity
from fedsteph.common.trust.roster import Entry, read_roster, write_roster
from fedsteph.simulations.run import flower_engine
from fedsteph.simulations.run.in_process import run_in_process
from fedsteph.simulations.worlds.all_worlds import DEFAULT_WORLD, WORLDS

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
TARGETS = ["--set", "federation.targets=[alpha,beta]"]
QUICK = ["--set", "evaluation.folds=1", "--set", "steph.gamma=0.0"]  # one fold, nothing to choose


def simulate(out, sites, *words):
    plain = ("--engine", "in-process", "--no-report")
    return fedsteph("simulate", "--sites", sites, "--out", out, *plain, *SETTINGS, *words)


def results(out):
    return read_json(out / "results.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three sites, not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    for i, name in enumerate(("alpha", "beta", "gamma")):
        make_site(folder / name, seed=i)
    return folder


@pytest.fixture
def sites(made, tmp_path):
    """A copy of them, which a test may change."""
    return Path(shutil.copytree(made, tmp_path / "sites"))


class Whole(NamedTuple):
    """A run with two targets that was prepared, then done, then asked for again; not to be changed."""

    out: Path
    keys: dict[Path, bytes]  # when it was prepared
    shown: str  # on stdout
    first: dict[str, Any]  # its results
    again: str  # on stdout the second time, with --json


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory) -> Whole:
    def trained(*args, **kwargs):
        raise AssertionError("a finished run trained again")

    out = tmp_path_factory.mktemp("whole") / "run"
    assert simulate(out, made, *TARGETS, "--prepare") == 0
    keys = keys_and_roster(out)
    with redirect_stdout(io.StringIO()) as shown:
        assert simulate(out, made, *TARGETS) == 0
    first = results(out)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as again:
        patch.setattr(survival_fit, "fit", trained)
        assert simulate(out, made, *TARGETS, "--json") == 0
    return Whole(out, keys, shown.getvalue(), first, again.getvalue())


def scores(out, target="alpha"):
    methods = results(out)["targets"][target]["methods"]
    return {name: methods[name]["c_index"] for name in methods}


def test_results_have_the_promised_schema_and_resuming_trains_nothing(whole):
    found = json.loads(whole.again)
    assert found == results(whole.out) and found["targets"] == whole.first["targets"]
    assert found["schema"] == "fedsteph/results/v1"
    target = found["targets"]["beta"]
    assert (target["n_patients"], target["n_events"]) == (24, 12)
    for method in ("local", "model_average", "steph", "deployed"):
        assert len(target["methods"][method]["c_index"]) == 2
    steph, deployed = target["methods"]["steph"], target["methods"]["deployed"]
    assert len(steph["gamma"]) == len(steph["collapsed"]) == len(deployed["choice"]) == 2
    for fold, choice in enumerate(deployed["choice"]):
        assert deployed["c_index"][fold] == target["methods"][choice]["c_index"][fold]
    assert found["communication"]["bytes"] > 0
    assert {"train.local", "train.share", "train.merge"} <= set(whole.first["seconds"])


def test_the_run_folder_describes_the_run_and_the_table_names_the_files(whole):
    run, shown = whole.out, whole.shown
    assert "model average" in shown and "95% interval" in shown and str(run / "results.json") in shown
    resolved = load_config(run / "config.yaml")
    assert resolved.federation.sites == ("alpha", "beta", "gamma")
    assert resolved.federation.targets == ("alpha", "beta")
    assert resolved.model.width == 6 and len(str(resolved.model.m0_sha256)) == 64
    manifest = read_json(run / "manifest.json")
    assert manifest["digests"]["m0"] == resolved.model.m0_sha256
    assert {"versions", "seeds"} <= manifest.keys()
    assert "| local |" in (run / "summary.md").read_text()
    models = {path.name for path in (run / "sites" / "alpha").rglob("*.safetensors")}
    inner = {f"inner_{j}_of_2.safetensors" for j in range(2)}
    final = {"member_0.safetensors", "model_of_1.safetensors", "model.safetensors"}
    folds = {f"{name}.safetensors" for name in ("local", "steph", "panel", "fold_0", "fold_1")}
    assert models == folds | inner | final
    assert (run / "sites" / "alpha" / "deployed" / "fold_1.md").is_file()
    for target in ("alpha", "beta"):
        path = run / "sites" / target / whole.first["targets"][target]["final"]["path"]
        assert (
            path.with_suffix(".md").is_file() and str(path) in shown and str(path) in (run / "summary.md").read_text()
        )
    assert {path.name for path in (run / "sites" / "gamma").rglob("*.safetensors")} == {"local.safetensors"}


def test_vectors_travel_in_the_dtype_of_the_recipe_and_take_half_the_bytes(made, tmp_path):
    """The sites' own models do not depend on it; the enhanced one does, by a rounding."""
    sizes = ["--set", "model.embed=64", "--set", "model.attention=48", *QUICK, "--set", "federation.sites=[alpha,beta]"]
    architecture = Architecture(6, 64, 48, 32)
    n_numbers = sum(math.prod(shape) for shape in architecture.encoder_shapes.values())
    found, sealed = {}, {}
    for dtype in ("float32", "bfloat16"):
        run = tmp_path / dtype
        assert simulate(run, made, *sizes, "--set", f"sharing.dtype={dtype}") == 0
        found[dtype] = results(run)
        target = found[dtype]["targets"]["alpha"]
        assert target["sources"] == ["beta"]
        assert target["sharing"] == to_dict(SharingConfig(dtype))
        assert f"task vectors in {dtype}." in (run / "summary.md").read_text()
        lines = [line.event for line in read_lines(run / "sites" / "beta" / "audit")]
        (sealed[dtype],) = (event.size for event in lines if event.event == "vector.seal")
        (model,) = run.glob("sites/alpha/*/merge-*/fold_0/steph.safetensors")
        sources = load_model(model).model.mixture.stack[1:]
        assert torch.equal(sources, sources.to(getattr(torch, dtype)).float())
    assert scores(tmp_path / "bfloat16")["local"] == scores(tmp_path / "float32")["local"]
    assert sealed["float32"] - sealed["bfloat16"] == pytest.approx(2 * n_numbers, rel=0.01)
    saved = found["float32"]["communication"]["bytes"] - found["bfloat16"]["communication"]["bytes"]
    assert saved == pytest.approx(2 * 2 * n_numbers, rel=0.01)  # up and down
    bases = [[base.name for base in sorted((tmp_path / dtype).glob("sites/*/base-*"))] for dtype in found]
    assert bases[0] == bases[1]


def test_two_directions_of_the_attention_travel_and_the_embedding_stays_at_home(made, tmp_path):
    changes = ["model.embed=64", "model.attention=48", "sharing.layers=attention", "sharing.rank=2"]
    run = tmp_path / "run"
    assert simulate(run, made, *QUICK, *(word for change in changes for word in ("--set", change))) == 0
    target = results(run)["targets"]["alpha"]
    assert target["sharing"] == to_dict(SharingConfig(layers="attention", rank=2))
    assert "task vectors in float32, layers attention, rank 2." in (run / "summary.md").read_text()
    whole, left = sum(math.prod(shape) for shape in Architecture(6, 64, 48, 32).encoder_shapes.values()), 64 * 6 + 64
    factors = 2 * (2 * (64 + 48) + 48) + 48 + 1
    lines = [line.event for line in read_lines(run / "sites" / "beta" / "audit")]
    (sealed,) = (event.size for event in lines if event.event == "vector.seal")
    assert 4 * factors < sealed < 4 * factors + 4096 < 4 * whole
    (model,) = run.glob("sites/alpha/*/merge-*/fold_0/steph.safetensors")
    sources = load_model(model).model.mixture.stack[1:]
    assert not sources[:, :left].any()
    V = sources[0, left : left + 48 * 64].reshape(48, 64)
    assert torch.linalg.matrix_rank(V, rtol=1e-5) == 2
    card = model.with_suffix(".md").read_text()
    assert "| their vectors were sent in | float32, layers attention, rank 2 |" in card


def keys_and_roster(out):
    return {path: path.read_bytes() for path in [out / "roster.yaml", *out.glob("sites/*/keys/*")]}


def test_every_site_has_secret_keys_of_its_own_that_nobody_else_can_read(whole):
    run = whole.out
    keys = [path for path in whole.keys if path.suffix == ".key"]
    names = ("alpha", "beta", "gamma")
    assert sorted(path.name for path in keys) == [f"{name}.{half}.key" for name in names for half in ("seal", "sign")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    roster = read_roster(run / "roster.yaml")
    for name in names:
        folder = run / "sites" / name / "keys"
        identity = read_identity(folder / f"{name}.sign.key", folder / f"{name}.seal.key")
        assert roster.entry(name).keys == identity.public
    assert len({entry.fingerprint for entry in roster.sites}) == 3
    assert read_json(run / "manifest.json")["digests"]["roster"] == roster.digest
    assert keys_and_roster(run) == whole.keys, "a prepared or resumed run keeps its keys and its roster"


def test_a_roster_changed_between_two_runs_is_refused_by_the_server_and_by_every_site(made, whole, tmp_path, capsys):
    """A stranger's keys under gamma's name: first in the file alone, then with a manifest that fits it."""
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    roster = read_roster(run / "roster.yaml")
    stranger = Entry.of("gamma", Identity.generate().public, cancer=None, contact="simulation")
    changed = replace(roster, sites=(*roster.sites[:2], stranger))
    write_roster(run / "roster.yaml", changed)
    assert simulate(run, made, *TARGETS) != 0
    assert "not the pinned" in capsys.readouterr().err
    manifest = json.loads(json.dumps(read_json(run / "manifest.json")).replace(str(whole[0]), str(run)))
    manifest["digests"]["roster"] = changed.digest
    write_json(run / "manifest.json", manifest)
    assert simulate(run, made, *TARGETS) == 1
    assert "the site folders" in capsys.readouterr().err
    with pytest.raises(QuorumError, match="the site's roster is not the federation's"):
        run_in_process(run)
    for name in ("alpha", "beta", "gamma"):
        last = [*read_lines(run / "sites" / name / "audit")][-1].event
        assert (last.event, last.decision, last.reason) == ("query.hello", "refused", "RosterError")


def test_the_audit_logs_of_all_parties_hold_together_after_two_runs(whole):
    run = whole.out
    verify(run / "server" / "audit")
    server = [line.event for line in read_lines(run / "server" / "audit")]
    sealed, opened = {}, {}
    for name in ("alpha", "beta", "gamma"):
        for head in [event.artefact for event in server if (event.event, event.peer) == ("site.join", name)]:
            verify(run / "sites" / name / "audit", head)
        for event in (line.event for line in read_lines(run / "sites" / name / "audit")):
            assert event.decision == "allowed"
            if event.event == "vector.seal":
                sealed[event.artefact] = f"{name} -> {event.peer}"
            if event.event == "vector.open":
                opened[event.artefact] = f"{event.peer} -> {name}"
    relayed = {event.artefact: event.peer for event in server if event.event == "envelope.relay"}
    assert sealed == relayed == opened
    assert len(relayed) == 2 * 4


def test_a_site_s_own_policy_holds_in_a_simulation_too(sites, tmp_path, capsys):
    (sites / "gamma" / "site.yaml").write_text(
        "policy: {targets: [beta], min_patients: 1, min_events: 1, recipes: any}\n"
    )
    assert simulate(tmp_path / "run", sites, *QUICK) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "site gamma" in last and "the site's policy does not let its vector go to this target" in last
    assert results(tmp_path / "run")["targets"]["alpha"]["sources"] == ["beta"]


def test_a_file_of_m0_is_copied_into_the_run_and_is_where_every_site_starts(made, tmp_path, capsys):
    first, second = (untrained_model(Architecture(6, 8, 6, 32), seed) for seed in (7, 8))
    m0, sha256 = tmp_path / "m0.safetensors", model_digest(first)
    save_base(m0, first, m0_sha256=sha256)
    (tmp_path / "c.yaml").write_text("model: {m0: m0.safetensors}\n")
    words = ("--config", tmp_path / "c.yaml", *QUICK, "--set", "federation.sites=[alpha, beta]")
    assert simulate(tmp_path / "run", made, *words) == 0
    loaded = load_model(tmp_path / "run/sites/alpha/deployed/fold_0.safetensors")
    assert loaded.m0 == sha256 and str(tmp_path) not in (tmp_path / "run/config.yaml").read_text()
    save_base(m0, second, m0_sha256=model_digest(second))
    capsys.readouterr()
    assert simulate(tmp_path / "run", made, *words) == 1
    assert "these differ: model.m0_sha256" in capsys.readouterr().err


def test_another_configuration_in_the_same_folder_is_refused(made, whole, tmp_path, capsys):
    assert simulate(tmp_path / "run", made, "--prepare") == 0
    assert not {*keys_and_roster(tmp_path / "run").values()} & {*whole.keys.values()}, "another run has other keys"
    for change in ("training.epochs=3", "steph.K=1", "federation.targets=[gamma]"):
        assert simulate(tmp_path / "run", made, "--set", change) == 1, change
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert change.split("=")[0] in last and "--out" in last, change


def test_a_killed_run_goes_on_to_the_results_of_an_uninterrupted_one(made, whole, tmp_path):
    """SIGKILL as soon as the target's first inner training is on disk; then the same command again."""
    code = (
        "import os, signal, sys\n"
        "from fedsteph.client.evaluation import select\n"
        "write = select.checked_file.write_json\n"
        "def then_die(path, content):\n"
        "    write(path, content)\n"
        "    if path.parent.name == 'inner':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "select.checked_file.write_json = then_die\n"
        "sys.argv[0] = 'fedsteph'\n"
        "from fedsteph.__main__ import main\n"
        "main()\n"
    )
    words = ["simulate", "--sites", made, "--out", tmp_path / "killed", "--engine", "in-process", *SETTINGS]
    killed = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results.json").exists()
    assert simulate(tmp_path / "killed", made) == 0
    assert scores(tmp_path / "killed") == scores(whole[0])


def test_two_runs_in_one_folder_at_a_time_are_refused(made, tmp_path, capsys):
    with exclusive(tmp_path / "run", wait=False):
        assert simulate(tmp_path / "run", made) == 1
    assert "another process" in capsys.readouterr().err.strip().splitlines()[-1]
    assert simulate(tmp_path / "run", made, "--prepare") == 0


def test_the_paper_preset_is_the_published_recipe_and_another_seed_makes_other_hospitals(tmp_path, monkeypatch):
    """Whatever the file says, and even after a refused run. Of fewer patients, which is quicker."""
    fewer = tuple(replace(site, n_patients=20) for site in WORLDS[DEFAULT_WORLD].sites)
    monkeypatch.setitem(WORLDS, DEFAULT_WORLD, replace(WORLDS[DEFAULT_WORLD], sites=fewer))
    out = tmp_path / "run"
    assert fedsteph("simulate", "--prepare", "--out", out, "--set", "evaluation.folds=10") == 1
    assert fedsteph("simulate", "--prepare", "--out", out, "--set", "preset=paper", "--set", "training.seed=3") == 0
    config = load_config(out / "config.yaml")
    assert (config.model.embed, config.model.attention, config.model.head_bias) == (512, 384, "default")
    assert config.training.drop_last and config.steph.gamma_grid == (0.005, 0.05)
    assert (config.training.seed, config.federation.targets) == (3, ("target",))
    assert all(f"{DEFAULT_WORLD}-seed3" in site["folder"] for site in read_sites(out))


BAD_RUNS = {
    "no such folder": (["--sites", "nowhere"], "nowhere"),
    "sites and a world": (["--world", "kinds"], "--sites, --world"),
    "unknown key": (["--set", "steph.gama=1"], "steph.gama"),
    "bad value": (["--set", "training.lr=-1"], "training.lr"),
    "no such site": (["--set", "federation.targets=[delta]"], "delta"),
    "target not a site": (["--set", "federation.sites=[alpha,beta]", "--set", "federation.targets=[gamma]"], "gamma"),
    "quorum": (["--set", "federation.quorum=4"], "federation.quorum"),
    "too many folds": (["--set", "evaluation.folds=3"], "evaluation.folds"),
    "other width": (["--set", "model.width=7"], "7"),
    "other M0": (["--set", "model.m0_sha256=" + "a" * 64], "m0_sha256"),
    "absent gpu": (["--set", "device='cuda:9'"], "cuda:9"),
    "no such device": (["--set", "device=tpu"], "tpu"),
    "no such config": (["--config", "absent.yaml"], "absent.yaml"),
    "no such engine": (["--engine", "steam"], "steam"),
    "no such option": (["--turbo"], "--turbo"),
    "set without value": (["--set", "steph.K"], "steph.K"),
}


@pytest.mark.parametrize("words, named", BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_bad_input_is_refused_before_anything_is_trained(made, tmp_path, capsys, words, named):
    assert simulate(tmp_path / "run", made, *words) == 1
    said = capsys.readouterr().err
    assert named in said.strip().splitlines()[-1]
    assert "Traceback" not in said
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_an_out_that_cannot_be_written_or_lies_among_the_sites_is_the_user_s_fault(sites, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out, named in ((tmp_path / "file", "file"), (sites / "run", "site folders"), (Path("/proc/run"), "/proc/run")):
        assert simulate(out, sites) == 1
        said = capsys.readouterr().err
        assert named in said.strip().splitlines()[-1] and "Traceback" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_every_problem_of_every_site_comes_at_once(sites, tmp_path, capsys):
    (sites / "alpha" / "features" / "P001-DX1.h5").unlink()
    (sites / "beta" / "features" / "P002-DX1.h5").write_bytes(b"garbage")
    assert simulate(tmp_path / "run", sites) == 1
    said = capsys.readouterr().err
    assert "P001-DX1" in said and "P002-DX1.h5" in said and "2 problems" in said.strip().splitlines()[-1]


def test_sites_of_different_encoders_are_told_by_name(sites, tmp_path, capsys):
    make_site(sites / "wide", width=9)
    assert simulate(tmp_path / "run", sites) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "wide: 9 wide" in last and "alpha: 6 wide" in last
    make_site(sites / "other", encoder="other-encoder")
    assert simulate(tmp_path / "run", sites, "--set", "federation.sites=[alpha,other]") == 1
    assert "other: 6 wide of other-encoder" in capsys.readouterr().err.strip().splitlines()[-1]
    make_site(sites / "far", magnification=2000)
    make_site(sites / "farther", magnification=2000)
    assert simulate(tmp_path / "run", sites, "--set", "federation.sites=[far,farther]") == 1
    assert "magnification must be above 0, at most 1000" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_site_that_breaks_during_the_run_is_named_and_the_others_finish(sites, tmp_path, capsys):
    assert simulate(tmp_path / "run", sites, *QUICK, "--prepare") == 0
    (sites / "gamma" / "features" / "P003-DX1.h5").write_bytes(b"garbage")
    assert simulate(tmp_path / "run", sites, *QUICK) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "site gamma" in last and "site.log" in last
    assert results(tmp_path / "run")["targets"]["alpha"]["sources"] == ["beta"]
    assert "P003-DX1" in (tmp_path / "run" / "sites" / "gamma" / "site.log").read_text()
    assert "P003" not in (tmp_path / "run" / "server" / "outcome.json").read_text()


def test_a_lost_quorum_is_exit_code_2_and_says_who(sites, tmp_path, capsys):
    assert simulate(tmp_path / "run", sites, "--prepare", "--set", "federation.quorum=3") == 0
    (sites / "gamma" / "labels.csv").write_text("nonsense\n")
    assert simulate(tmp_path / "run", sites, "--set", "federation.quorum=3") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "quorum" in last and "gamma failed in query.hello" in last and "site.log" in last


def test_a_bug_is_exit_code_3_with_the_cause_on_the_last_line(made, tmp_path, capsys, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("our fault")

    monkeypatch.setattr("fedsteph.simulations.run.simulate.run_in_process", broken)
    assert simulate(tmp_path / "run", made) == 3
    assert "ZeroDivisionError: our fault" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.cohorts
def test_real_cohorts_from_site_folders_to_results(tmp_path):
    """SKCM and KIRP, real bags and outcomes, two folds; every number in its range."""
    if not SHARED.is_dir():
        pytest.skip("needs the real cohorts in ../shared/data")
    words = ["--cohorts", "skcm,kirp", "--width", "16", "--out", tmp_path / "sites"]
    subprocess.run([sys.executable, SHARED / "export.py", *words], check=True, capture_output=True)
    words = ["evaluation.folds=2", "training.epochs=1", "federation.targets=[skcm,kirp]", "model.embed=16"]
    assert simulate(tmp_path / "run", tmp_path / "sites", *QUICK, *(w for word in words for w in ("--set", word))) == 0
    found = results(tmp_path / "run")["targets"]
    sizes = {name: (target["n_patients"], target["n_events"]) for name, target in found.items()}
    assert sizes == {"skcm": (226, 74), "kirp": (256, 26)}
    for target in found:
        for method in scores(tmp_path / "run", target).values():
            assert all(0 < value < 1 for value in method)


@pytest.mark.flower
def test_flower_s_own_engine_gives_the_numbers_of_the_quick_one(made, sites, tmp_path, monkeypatch, capsys):
    """A SuperLink, Ray and separate processes on loopback: the same scores to the last bit, nothing left running.

    All of them beside files that have the names of fedsteph's folders. A site that breaks is named here too.
    """
    foreign = plant(tmp_path / "foreign")
    monkeypatch.chdir(foreign)
    monkeypatch.setenv("PYTHONPATH", str(foreign))
    assert simulate(tmp_path / "quick", made, "--set", "federation.sites=[alpha,beta]") == 0
    out = tmp_path / "flower"
    assert simulate(out, sites, "--prepare") == 0
    (sites / "gamma" / "labels.csv").write_text("nonsense\n")
    assert simulate(out, sites, "--engine", "flower") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "gamma" in last and "failed in query.hello" in last
    assert scores(out) == scores(tmp_path / "quick")
    log = (out / "flower" / "superlink.log").read_text()
    assert log and "P000" not in log and "DX1" not in log and str(sites) not in log
    assert processes_of(out) == {} and imported(foreign) == []


@pytest.mark.flower
def test_a_stopped_flower_run_leaves_no_process_behind(made, tmp_path):
    """Killed in the middle of training: the SuperLink, the run and Ray's workers all end.

    What SIGTERM does to a command is in test_study_run.py, and how the leash ends what it holds in test_leash.py.
    """
    out = tmp_path / "stopped"
    fedsteph = Path(sys.executable).parent / "fedsteph"
    words = ["simulate", "--sites", made, "--out", out, *SETTINGS, "--set", "training.epochs=1000"]
    words += ["--set", "federation.sites=[alpha,beta]"]
    with subprocess.Popen([fedsteph, *map(str, words)], stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        for line in command.stderr:
            if line.startswith("server: train.local"):
                break
        running = processes_of(out)
        command.kill()
        assert command.wait(60) == -signal.SIGKILL
    assert any("ray::" in name for name in running.values()) and any("superlink" in name for name in running.values())
    for pid in running:
        assert has_ended(pid, within=60), running[pid]
    assert processes_of(out) == {}


def test_a_run_that_fails_inside_flower_is_exit_code_2_with_the_true_cause(sites, tmp_path, capsys, monkeypatch):
    """Flower says no more than that it failed, as this stand-in for it does."""

    def failing(folder):
        with pytest.raises(QuorumError):
            run_in_process(folder)
        raise EngineError("Flower ended the run as finished:failed")

    monkeypatch.setattr("fedsteph.simulations.run.simulate.run_with_flower", failing)
    assert simulate(tmp_path / "run", sites, "--prepare", "--set", "federation.quorum=3") == 0
    (sites / "gamma" / "labels.csv").write_text("nonsense\n")
    assert simulate(tmp_path / "run", sites, "--engine", "flower", "--set", "federation.quorum=3") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "quorum" in last and "gamma" in last and "finished:failed" not in last


def test_a_superlink_that_cannot_start_is_exit_code_2(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(flower_engine, "program", lambda name: sys.executable)
    assert simulate(tmp_path / "run", made, "--engine", "flower") == 2
    assert "superlink.log" in capsys.readouterr().err.strip().splitlines()[-1]


def processes_of(out):
    """Command lines by process id of all that work for a run: they inherit its FLWR_HOME."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(out).encode() in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found
