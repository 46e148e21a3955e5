"""Whole runs with FedAvg and FedProx beside STEPH: their rows, a site that keeps its updates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sites import TINY, make_site
from wire import Passed, recorded

from fedsteph.client.sharing import averaging_rounds
from fedsteph.common.config.run_config import load_config
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.trust.audit_log import read_lines, verify
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.wire import protocol
from fedsteph.simulations.run.run_folder import RunFolder, prepare
from fedsteph.simulations.run.simulate import run

SITES = ("alpha", "beta", "gamma")
WINDOW = 64  # bytes
ROUNDS = 2
BASELINES = ("fedavg", "fedprox")
SETTINGS = [
    *TINY,
    "model.n_bins=8",
    "training.epochs=1",
    "steph.gamma=0.0",
    "federation.targets=[alpha]",
    "comparators.methods=[fedavg, fedprox]",
    f"comparators.rounds={ROUNDS}",
]
KEEPS = "its policy lets no update go to the server unsealed (UnsealedPolicyError)"


@dataclass
class Ran:
    """A finished run, and every message of it."""

    folder: RunFolder
    results: dict
    passed: list[Passed]

    @property
    def sent(self) -> list[tuple[str, dict, Mapping[str, bytes]]]:
        """What the averaging brought to the sites: site, request and encoders."""
        asked = [one for one in self.passed if one.kind == "Average"]
        return [(one.site, json.loads(one.body)["Average"], one.envelopes) for one in asked]

    @property
    def came(self) -> list[tuple[dict, Mapping[str, bytes]]]:
        """What it brought to the server: replies and updates."""
        replies = [one for one in self.passed if one.kind == "AverageReply"]
        return [(json.loads(one.body)["AverageReply"], one.envelopes) for one in replies]

    @property
    def at_server(self) -> Path:
        return self.folder.path / "server"

    @property
    def failures(self) -> list[tuple[str, str, str]]:
        return [(one["site"], one["phase"], one["reason"]) for one in self.results["failures"]]

    def asked(self, site: str) -> list[tuple[str, int]]:
        """The rounds that a site was asked for."""
        return [(body["method"], body["round"]) for to, body, _ in self.sent if to == site]


def run_once(tmp: Path, policies: Mapping[str, str] | None = None, *settings: str) -> Ran:
    for i, name in enumerate(SITES):
        make_site(tmp / "sites" / name, seed=i, patients=(12, 13, 24)[i], max_instances=4)
    for name, policy in (policies or {}).items():
        (tmp / "sites" / name / "site.yaml").write_text(f"policy: {policy}\n")
    config = load_config(None, [*SETTINGS, *settings])
    folder, _ = prepare(tmp / "run", config, [tmp / "sites" / name for name in SITES])
    with recorded(SITES) as passed:
        results = run(folder, "in-process").to_dict()
    return Ran(folder, results, passed)


def policy_of(unsealed: bool) -> str:
    flag = str(unsealed).lower()
    return f"{{targets: [alpha], min_patients: 1, min_events: 1, recipes: any, unsealed_updates: {flag}}}"


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Ran:
    return run_once(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Ran:
    """gamma's policy keeps its updates from the server."""
    return run_once(tmp_path_factory.mktemp("guarded"), {"gamma": policy_of(False), "beta": policy_of(True)})


def numbers(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<f4", offset=8 + int.from_bytes(content[:8], "little"))


# ---------------------------------------------------------------- an honest run


def test_both_baselines_have_rows_beside_steph(honest):
    target = honest.results["targets"]["alpha"]
    assert honest.failures == []
    assert set(target["methods"]) == {"local", "steph", "panel", "deployed", *BASELINES}
    for name in BASELINES:
        row = target["methods"][name]
        assert len(row["c_index"]) == 2 and 0 <= row["mean"] <= 1
        assert row["learnable"] == target["methods"]["local"]["learnable"]
    assert target["methods"]["fedavg"] != target["methods"]["local"]
    summary = (honest.folder.path / "summary.md").read_text()
    assert "| FedAvg, fine-tuned |" in summary and "| FedProx, fine-tuned |" in summary
    told = read_json(honest.at_server / "outcome.json")["targets"]["alpha"]["scores"]
    assert {score["method"] for score in told} == set(target["methods"])


def test_every_site_takes_part_in_every_round_and_targets_alone_get_the_result(honest):
    rounds = [(method, round_) for method in BASELINES for round_ in range(ROUNDS)]
    for site in ("beta", "gamma"):
        assert honest.asked(site) == rounds
    assert sorted(honest.asked("alpha")) == [(method, round_) for method in BASELINES for round_ in range(ROUNDS + 1)]
    for _, body, encoders in honest.sent:
        assert set(encoders) == (set() if body["round"] == 0 else {"0", "1"})
    updates = [update for _, update in honest.came if update]
    assert len(updates) == len(rounds) * 3 and len(honest.came) == len(updates) + 2
    assert {reply["weight"] for reply, _ in honest.came} == {10, 20}  # 12, 13 and 24 patients: their bands


def test_what_goes_out_is_the_weighted_mean_of_what_came_in(honest):
    """12, 13 and 24 patients weigh 10, 10 and 20."""
    updates = [(reply["weight"], update) for reply, update in honest.came if update]
    for i, method in enumerate(BASELINES):
        for round_ in range(ROUNDS):
            block = updates[3 * (i * ROUNDS + round_) :][:3]
            weights = [weight for weight, _ in block]
            assert sorted(weights) == [10, 10, 20]
            after = [e for _, body, e in honest.sent if (body["method"], body["round"]) == (method, round_ + 1)]
            assert after
            for fold in ("0", "1"):
                mean = np.average([numbers(update[fold]).astype(float) for _, update in block], axis=0, weights=weights)
                for encoders in after:
                    np.testing.assert_allclose(numbers(encoders[fold]), mean, rtol=1e-5, atol=1e-7)


def test_the_global_encoders_lie_at_the_target_and_nowhere_else(honest):
    found = [path.relative_to(honest.folder.path / "sites") for path in honest.folder.path.rglob("global.safetensors")]
    assert {path.parts[0] for path in found} == {"alpha"}
    assert {path.parent.name for path in found} == {f"{m}_fold_{k}" for m in BASELINES for k in (0, 1)}


def blocks(content: bytes) -> set[bytes]:
    """Blocks of half the length: any 64 bytes in a row hold one that begins at a multiple of 32."""
    half = WINDOW // 2
    return {content[i : i + half] for i in range(0, len(content) - half + 1, half)}


def leaks(recorded: bytes, wanted: set[bytes]) -> bool:
    half = WINDOW // 2
    return any(recorded[i : i + half] in wanted for i in range(len(recorded) - half + 1))


@pytest.mark.parametrize("which", ["honest", "guarded"])
def test_the_server_writes_no_64_bytes_of_an_update_or_an_average_to_its_disk(which, request):
    ran = request.getfixturevalue(which)
    passed = [*(update for _, update in ran.came), *(encoders for _, _, encoders in ran.sent)]
    wanted = set().union(*(blocks(numbers(content).tobytes()) for one in passed for content in one.values()))
    assert len(wanted) > 50
    assert bytes(WINDOW // 2) not in wanted
    shared = [path for path in ran.folder.path.iterdir() if path.is_file()]
    files = [path for path in ran.at_server.rglob("*") if path.is_file()]
    assert {"outcome.json", "audit.jsonl"} <= {path.name for path in files}
    for path in [*files, *shared]:
        assert not leaks(path.read_bytes(), wanted), path
    one = numbers(next(update for _, update in ran.came if update)["0"]).tobytes()
    for start in (0, 1, 37, len(one) - WINDOW):  # and the search would find any
        assert leaks(b"..." + one[start : start + WINDOW] + b"...", wanted)
    assert leaks(next(ran.folder.path.rglob("global.safetensors")).read_bytes(), wanted)


def test_no_update_leaves_a_site_sealed_or_unsealed_but_in_these_messages(honest):
    """The audit log of every site says so, and holds together."""
    for name in SITES:
        verify(honest.folder.site_state(name) / "audit")
        events = [line.event for line in read_lines(honest.folder.site_state(name) / "audit")]
        assert sum(one.event == protocol.AVERAGE for one in events) == len(honest.asked(name))
        assert {one.decision for one in events} == {"allowed"}


# ---------------------------------------------------------------- a site that keeps its updates


def test_a_site_whose_policy_keeps_updates_is_named_takes_no_part_and_its_sealed_vector_is_merged(guarded):
    named = [failure for failure in guarded.failures if failure[0] == "gamma"]
    assert named == [("gamma", protocol.AVERAGE, f"{method}, round 0: {KEEPS}") for method in BASELINES]
    assert guarded.failures == named
    assert "gamma" in (guarded.folder.path / "summary.md").read_text()
    refused = [
        (line.event.event, line.event.reason)
        for line in read_lines(guarded.folder.site_state("gamma") / "audit")
        if line.event.decision == "refused"
    ]
    assert refused == [(protocol.AVERAGE, "UnsealedPolicyError")] * 2
    assert guarded.asked("gamma") == [(method, 0) for method in BASELINES]
    assert guarded.asked("beta") == [(method, round_) for method in BASELINES for round_ in range(ROUNDS)]
    assert {reply["weight"] for reply, _ in guarded.came} == {10}  # alpha's and beta's
    assert len([update for _, update in guarded.came if update]) == 2 * ROUNDS * 2
    assert not list(guarded.folder.site_state("gamma").rglob("round_*"))
    assert list(guarded.folder.site_state("beta").rglob("round_*"))
    target = guarded.results["targets"]["alpha"]
    assert target["sources"] == ["beta", "gamma"]
    assert set(target["methods"]["steph"]["sources"][0]) == {"beta", "gamma"}
    assert {*BASELINES} <= set(target["methods"])


def test_a_target_that_keeps_its_own_updates_has_no_such_rows_and_everything_else(tmp_path):
    policies = {name: policy_of(name != "alpha") for name in SITES}
    ran = run_once(tmp_path, policies, "comparators.methods=[fedavg, model_average]", "evaluation.folds=1")
    target = ran.results["targets"]["alpha"]
    assert set(target["methods"]) == {"local", "model_average", "steph", "panel", "deployed"}
    assert target["sources"] == ["beta", "gamma"]
    assert [(site, phase) for site, phase, _ in ran.failures] == [("alpha", protocol.AVERAGE)]
    audited = [line.event for line in read_lines(ran.at_server / "audit")]
    [end] = [event for event in audited if event.event == "fedavg.end"]
    assert end.decision == "allowed"


def test_a_second_run_over_the_same_sites_has_rounds_of_its_own_and_the_same_results(honest, monkeypatch):
    trained: list[TaskVector] = []
    real = averaging_rounds.train_round
    monkeypatch.setattr(averaging_rounds, "train_round", lambda *args: trained.append(args[0]) or real(*args))
    again = run(honest.folder, "in-process").to_dict()
    assert again["targets"] == honest.results["targets"]
    assert len(trained) == len(BASELINES) * ROUNDS * len(SITES)
