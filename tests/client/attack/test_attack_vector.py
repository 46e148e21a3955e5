"""A site's attack on its own vector: it finds members where there are some to find, and nothing where there are not."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from client_builders import Spy, make_workspace
from each_case import each
from keys_and_rosters import membership_of, roster_of, under
from sites import TINY, make_site

import fedsteph.client.training.survival_fit
from fedsteph.client.attack.attack_vector import attack_vector
from fedsteph.client.attack.coins import halves
from fedsteph.client.attack.likelihood import each_by_the_others
from fedsteph.client.attack.roc import separation
from fedsteph.client.data.tables.splits import Split
from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.dp_settings import Guarantee
from fedsteph.client.sharing.attack_result import content_digest, read_result, result_path
from fedsteph.client.sharing.outgoing import outgoing, shared_vector
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.errors import AttackPolicyError, ConfigError
from fedsteph.common.trust.audit_log import read_lines
from fedsteph.common.vector.vector_file import write_vector
from fedsteph.common.wire.messages import RunId

# A large step on few patients, many times: a model that learns them by heart.
HEART = (
    "training.epochs=6",
    "training.lr=0.02",
    "training.batch_bags=32",
    "model.embed=24",
    "evaluation.folds=3",
    "evaluation.bootstrap=100",
)
SETTINGS = [part for setting in (*TINY, *HEART) for part in ("--set", setting)]
# Noise of 50 and of 1 on one sum: an epsilon of 0.08, and of 4.4, at 1e-5.
BROKEN = Guarantee(Mechanism(50.0, 1.0, 1), 1e-3, 0.05)
KEPT = Guarantee(Mechanism(1.0, 1.0, 1), 1e-3, 3.0)
DATA = {"patients": 48, "width": 12, "folds": 3}
ROSTER = roster_of("site", "other")
RUN = RunId("fed", "run1", ROSTER.digest)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> tuple[Workspace, dict[str, Any], list[float]]:
    """A site's workspace, what its audit found, and what it told of its progress."""
    workspace = make_workspace(tmp_path_factory.mktemp("audit"), *HEART, "model.width=12", **DATA)
    told: list[float] = []
    return workspace, attack_vector(workspace, progress=lambda done, total: told.append(done / total)), told


@pytest.fixture
def copied(attacked, tmp_path) -> Workspace:
    """The same site and its state in a folder that a test may change."""
    workspace = attacked[0]
    state = tmp_path / "state"
    shutil.copytree(workspace.site.state, state)
    site = replace(workspace.site, state=state)
    return replace(workspace, site=site, base_folder=state / workspace.base_folder.name)


def attack(result: dict[str, Any], signal: str, kind: str) -> dict[str, Any]:
    return next(a for a in result["attacks"] if (a["signal"], a["attack"]) == (signal, kind))


def test_an_overfitted_site_gives_its_patients_away(attacked):
    _, result, _ = attacked
    best = attack(result, "decomposition", "reference models")
    for on in ("vector", "procedure"):
        assert best[on]["auc_interval_95"][0] > 0.5, on
    assert best["procedure"]["auc"] > 0.75
    assert best["procedure"]["auc"] > attack(result, "loss", "threshold")["procedure"]["auc"] + 0.15
    assert result["epsilon"]["lower_bound"] > 0.3
    assert (result["epsilon"]["reported"], result["epsilon"]["contradicted"]) == (None, False)


def test_a_head_is_attacked_too_and_its_result_is_of_its_own_file(attacked, copied):
    workspace, result, _ = attacked
    with_head = result["with_head"]
    assert with_head["attacks"][:6] == result["attacks"] and len(with_head["attacks"]) == 12
    assert with_head["strongest"]["auc"] > 0.75 and attack(with_head, "head loss", "reference models")
    file = write_vector(shared_vector(workspace, head=True))
    assert content_digest(file) == with_head["content_sha256"] != result["content_sha256"]
    assert read_result(workspace.site.state, with_head["content_sha256"]) == json.loads(json.dumps(with_head))
    never = replace(copied, recipe=replace(copied.recipe, sharing=SharingConfig(head="never")))
    assert attack_vector(never)["with_head"] is None


def test_the_strongest_attack_is_chosen_on_the_procedure(attacked):
    _, result, _ = attacked
    best = max(result["attacks"], key=lambda a: a["procedure"]["auc"])
    assert result["strongest"] == {
        "signal": best["signal"],
        "attack": best["attack"],
        "auc": max(best["vector"]["auc"], best["procedure"]["auc"]),
    }
    assert len(result["attacks"]) == 6 and (result["n_members"], result["n_others"]) == (32, 16)


def test_patients_that_were_not_in_it_are_not_found(attacked, copied, monkeypatch):
    """The same vector under a split that was drawn without regard to who trained it."""
    spy = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    ids = [*copied.splits[0].train, *copied.splits[0].test]
    drawn = [ids[i] for i in np.random.default_rng(0).permutation(len(ids))]
    result = attack_vector(replace(copied, splits=(Split(tuple(drawn[:24]), tuple(drawn[24:])), *copied.splits[1:])))
    assert result["content_sha256"] == attacked[1]["content_sha256"]
    assert len(spy.calls) == 16  # the references, whose coins fall on other patients now; the vector is the old one
    low, high = attack(result, "decomposition", "reference models")["vector"]["auc_interval_95"]
    assert low < 0.5 < high
    assert attack(result, "decomposition", "reference models")["procedure"]["auc_interval_95"][0] > 0.5


def test_coins_that_no_model_was_trained_by_are_not_guessed():
    rng = np.random.default_rng(0)
    events = np.ones(200)
    inside, other = halves(events, 16, seed=1), halves(events, 16, seed=2)
    scores = rng.normal(size=inside.shape) + 2 * inside
    low, high = separation(each_by_the_others(scores, other), other, resamples=200, seed=0).auc_interval_95
    assert low < 0.5 < high
    assert separation(each_by_the_others(scores, inside), inside, resamples=200, seed=0).auc_interval_95[0] > 0.8


def test_the_result_is_kept_without_a_patient(attacked):
    workspace, result, told = attacked
    path = result_path(workspace.site.state, result["content_sha256"])
    text = path.read_text()
    assert json.loads(json.dumps(result)) == read_result(workspace.site.state, path.stem)
    assert not [patient.id for patient in workspace.cohort.patients if patient.id in text]
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 2 * 16


def test_stopped_and_started_again_it_finds_the_same(attacked, copied, monkeypatch):
    """Stopped in the sixth reference model; the five before it are not trained again."""
    shutil.rmtree(next(copied.base_folder.glob("references-*")))
    shutil.rmtree(copied.site.state / "privacy-audits")

    def stop(done: float, total: float) -> None:
        if done > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack_vector(copied, progress=stop)
    assert not (copied.site.state / "privacy-audits").exists()
    spy = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    assert attack_vector(copied) == attacked[1] and len(spy.calls) == 16 - 5


def test_what_another_recipe_shares_is_attacked_with_the_same_models(attacked, copied, monkeypatch):
    spy = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    less = replace(copied, recipe=replace(copied.recipe, sharing=SharingConfig(layers="attention")))
    result = attack_vector(less)
    assert spy.calls == [] and result["content_sha256"] != attacked[1]["content_sha256"]
    assert result["attacks"] != attacked[1]["attacks"]


def test_the_digest_is_of_the_file_that_would_leave(attacked):
    file = write_vector(shared_vector(attacked[0]))
    assert hashlib.sha256(file).hexdigest() == content_digest(file) == attacked[1]["content_sha256"]


def policy(limit: float | None) -> Policy:
    return Policy(targets=("other",), min_patients=1, min_events=1, max_attack_auc=limit)


def shared(workspace: Workspace, limit: float | None):
    sent, refused = outgoing(under(workspace, policy(limit)), membership_of("site", ROSTER), RUN, ["other"])
    line = list(read_lines(workspace.site.state / "audit"))[-1].event
    assert line.decision == ("allowed" if sent else "refused")
    assert sent or line.reason == type(refused["other"]).__name__
    return sent, refused.get("other")


def test_a_vector_leaves_below_the_limit_and_stays_above_it(attacked, copied):
    auc = attacked[1]["strongest"]["auc"]
    assert shared(copied, auc)[0]
    sent, error = shared(copied, auc - 1e-6)
    assert (sent, type(error)) == ({}, AttackPolicyError) and "no vector that its own attack" in error.public_reason
    assert shared(copied, None)[0]


def test_a_vector_that_was_not_attacked_stays(copied):
    other = replace(copied, recipe=replace(copied.recipe, sharing=SharingConfig(dtype="float16")))
    sent, error = shared(other, 1.0)
    assert (sent, type(error)) == ({}, AttackPolicyError) and "never attacked" in error.what and shared(copied, 1.0)[0]


def test_a_result_of_another_vector_is_no_result_of_this_one(attacked, copied):
    path = result_path(copied.site.state, attacked[1]["content_sha256"])
    for text in (json.dumps(attacked[1] | {"content_sha256": "0" * 64}), "{", "[]"):
        path.write_text(text)
        assert type(shared(copied, 1.0)[1]) is AttackPolicyError


def test_a_guarantee_that_does_not_hold_is_contradicted_and_the_vector_stays_whatever_the_limit(attacked, copied):
    found = attack_vector(copied, promised=BROKEN)["epsilon"]
    assert found == attacked[1]["epsilon"] | {"reported": found["reported"], "contradicted": True}
    assert found["reported"] == pytest.approx(0.08, abs=0.03)
    for limit in (None, 1.0):
        assert "epsilon of at least" in shared(copied, limit)[1].what
    kept = attack_vector(copied, promised=KEPT)["epsilon"]
    assert kept["contradicted"] is False and kept["reported"] > kept["lower_bound"] and shared(copied, None)[0]


def test_limits_that_a_policy_may_set():
    for limit in (0.5, 1.01, -1.0):
        with pytest.raises(ValueError, match="max_attack_auc"):
            policy(limit)
    with pytest.raises(ValueError, match="unsealed_updates"):
        Policy(max_attack_auc=0.6, unsealed_updates=True)


def test_the_command_finds_what_the_site_s_work_has_found(cli, attacked):
    workspace, result, _ = attacked
    code, out, err = cli("privacy", "audit", workspace.site.folder, *SETTINGS)
    assert (code, err) == (0, "")
    sure = 100 * result["strongest"]["auc"]
    assert "With its head, as a site of the same cancer may receive it: in " in out
    assert f"tells which is which in {sure:.0f} of 100 cases" in out and "has no privacy guarantee" in out
    assert f"{result['content_sha256']}.json" in out
    assert read_result(workspace.site.state, result["content_sha256"]) == json.loads(json.dumps(result))


def test_the_command_ends_with_2_above_the_policy_s_limit(cli, attacked, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(attacked[0].site.folder, site)
    (site / "site.yaml").write_text("policy: {max_attack_auc: 0.51}\n")
    code, out, err = cli("privacy", "audit", site, *SETTINGS, "--json")
    assert code == 2 and "will not be shared" in err and json.loads(out) == json.loads(json.dumps(attacked[1]))


@each("n", [14, 17, 0])
def test_too_few_reference_models_are_refused(refused, attacked, n):
    said = refused("privacy", "audit", attacked[0].site.folder, *SETTINGS, "--references", n)
    assert "at least 16" in said


def test_a_site_that_is_too_small_is_refused(refused, tmp_path):
    small = make_site(tmp_path / "small", patients=38, width=12, folds=3)
    assert "needs at least 40" in refused("privacy", "audit", small, *SETTINGS)
    quiet = make_site(tmp_path / "quiet", width=12, folds=3, patients=42, event_share=0.1)
    assert "42 patients with 5 events" in refused("privacy", "audit", quiet, *SETTINGS)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unknown_number_of_references_is_an_error_of_configuration(attacked):
    with pytest.raises(ConfigError, match="even"):
        attack_vector(attacked[0], n_references=19)
