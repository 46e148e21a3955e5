"""What a site that trains in private shares: another model than its own, what it costs, and who says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from client_builders import ON_CPU, equal, m0_of, state_of, trained_workspace
from keys_and_rosters import membership_of, roster_of, under
from sites import make_site

from fedsteph.client.privacy.accounting import Mechanism, epsilon
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.privacy.ledger import Ledger, total
from fedsteph.client.sharing.outgoing import outgoing, require_shareable, shared_vector
from fedsteph.client.sharing.shared_model import guarantee, kept_model, shared_model, train_shareable, train_shared
from fedsteph.client.sharing.spending import spend_rounds
from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.client.site.workspace import Workspace
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.errors import BudgetPolicyError, ConfigError, LedgerError, ModelFileError, PrivacyPolicyError
from fedsteph.common.model.initial_model import model_digest
from fedsteph.common.wire.messages import RunId

pytestmark = pytest.mark.usefixtures("epsilon_once")
ROSTER = roster_of("site", "other", "third")
MEMBER = membership_of("site", ROSTER)
RUN = RunId("fed", "run1", ROSTER.digest)
OPEN = Policy(targets=("other", "third"), min_patients=1, min_events=1)


def private(workspace: Workspace, **settings: object) -> Workspace:
    return workspace.sharing(DpSgd(**({"noise": 5.0, "epochs": 4, "delta": 0.05} | settings)))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = under(private(trained_workspace(tmp_path)), OPEN)
    train_shared(found)
    return found


def test_the_shared_model_is_private_and_the_sites_own_is_not(workspace: Workspace) -> None:
    shared, own = train_shared(workspace), workspace.local_model(0)
    assert not equal(state_of(shared), state_of(own))
    public = workspace.sharing(None)
    assert equal(state_of(train_shared(public)), state_of(own))
    vector = shared_vector(workspace)
    assert vector.norm == pytest.approx(2.0, rel=1e-5)
    changed = [name for name, tensor in vector.tensors.items() if bool((tensor != 0).any())]
    assert changed == ["embed.weight"]
    m0 = m0_of(workspace.recipe)
    assert torch.equal(shared.head.weight[0], m0.head.weight.mean(dim=0))  # public: nothing of it was trained
    assert len({tuple(row) for row in shared.head.weight.tolist()}) == len(set(shared.head.bias.tolist())) == 1


def test_it_is_trained_once_and_found_again(workspace: Workspace) -> None:
    first = state_of(train_shared(workspace))
    assert equal(state_of(train_shared(workspace)), first)  # two trainings have different noise: this is the same one
    other = private(workspace, noise=6.0)
    with pytest.raises(ModelFileError, match="not trained yet"):
        shared_model(other)
    assert not equal(state_of(train_shared(other)), first) and equal(state_of(shared_model(workspace)), first)


def test_the_guarantee_is_the_accountants_for_the_training_part(workspace: Workspace) -> None:
    found, n = guarantee(workspace), len(workspace.train_part(0))
    assert found is not None and found.mechanism == Mechanism(5.0, 1.0, 4) and found.delta == 0.05
    assert found.epsilon == pytest.approx(epsilon([found.mechanism], 0.05))
    train_shared(private(workspace, batch=3))
    batches = guarantee(private(workspace, batch=3))
    assert batches is not None and batches.mechanism == Mechanism(5.0, 3 / n, round(4 * n / 3))
    train_shared(private(workspace, noise=None, epsilon=2.0, accountant="rdp"))
    wanted = guarantee(private(workspace, noise=None, epsilon=2.0, accountant="rdp"))
    assert wanted is not None and wanted.epsilon <= 2.0
    assert epsilon([replace(wanted.mechanism, noise=0.98 * wanted.mechanism.noise)], wanted.delta, "rdp") > 2.0
    assert guarantee(workspace.sharing(None)) is None


def test_a_damaged_guarantee_is_an_error(workspace: Workspace) -> None:
    train_shared(workspace)
    (path,) = workspace.base_folder.glob("private-*/guarantee.json")
    for text in ("", "{}", path.read_text().replace("5.0", "-5.0")):
        path.write_text(text)
        with pytest.raises(ModelFileError, match="is damaged"):
            guarantee(workspace)


def test_a_reference_training_has_the_same_noise_whatever_its_size(workspace: Workspace, monkeypatch) -> None:
    from fedsteph.client.sharing import shared_model as module  # noqa: PLC0415

    seen: list[Mechanism] = []
    real = module.train_private

    def watched(part, cohort, settings, mechanism, **more):
        seen.append(mechanism)
        return real(part, cohort, settings, mechanism, **more)

    monkeypatch.setattr(module, "train_private", watched)
    half = workspace.cohort.subset([patient.id for patient in workspace.cohort.patients[:9]])
    train_shareable(workspace, half, label="half", run=ON_CPU)
    assert seen == [Mechanism(5.0, 1.0, 4)]


def test_every_recipient_gets_the_private_vector_for_one_price(workspace: Workspace) -> None:
    ledger = Ledger(workspace.site.audit)
    sent, refused = outgoing(workspace, MEMBER, RUN, ["other", "third"])
    assert (list(sent), refused) == (["other", "third"], {})
    outgoing(workspace, MEMBER, replace(RUN, run="run2"), ["other"])
    (entry,) = ledger.entries()
    found = guarantee(workspace)
    assert found is not None and (entry.run, entry.mechanism, entry.delta) == ("run1", found.mechanism, found.delta)
    assert total([entry]).epsilon == pytest.approx(found.epsilon)


def test_beyond_the_budget_nobody_gets_anything(workspace: Workspace) -> None:
    found = guarantee(workspace)
    assert found is not None
    for budget, leaves in ((0.99 * found.epsilon, False), (1.01 * found.epsilon, True)):
        sent, refused = outgoing(
            under(workspace, replace(OPEN, epsilon_budget=budget)), MEMBER, RUN, ["other", "third"]
        )
        assert bool(sent) == leaves
        assert {type(error) for error in refused.values()} == (set() if leaves else {BudgetPolicyError})
    # Another training on the same patients is another price.
    limited = under(private(workspace, noise=5.1), replace(OPEN, epsilon_budget=1.01 * found.epsilon))
    train_shared(limited)
    sent, refused = outgoing(limited, MEMBER, RUN, ["other"])
    assert (sent, [type(error) for error in refused.values()]) == ({}, [BudgetPolicyError])


def test_a_budget_lets_no_vector_go_that_was_trained_without_privacy(tmp_path: Path) -> None:
    limited = under(trained_workspace(tmp_path), replace(OPEN, epsilon_budget=1e6))
    sent, refused = outgoing(limited, MEMBER, RUN, ["other"])
    assert (sent, [type(error) for error in refused.values()]) == ({}, [BudgetPolicyError])


def test_the_rounds_of_each_method_in_each_run_are_spent_once(workspace: Workspace) -> None:
    for run, method in (("run1", "fedavg"), ("run1", "fedavg"), ("run1", "fedprox"), ("run2", "fedavg")):
        spend_rounds(workspace, replace(RUN, run=run), method)
    assert [entry.run for entry in Ledger(workspace.site.audit).entries()] == ["run1", "run1", "run2"]


def test_spent_before_sent(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that dies while it seals has spent; one whose ledger cannot be written has sealed nothing."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("fedsteph.client.sharing.outgoing.seal", die)
        with pytest.raises(KeyboardInterrupt):
            outgoing(workspace, MEMBER, RUN, ["other"])
    assert len(Ledger(workspace.site.audit).entries()) == 1
    train_shared(private(workspace, noise=7.0))
    with monkeypatch.context() as context:
        context.setattr("fedsteph.client.privacy.ledger.atomic.write_bytes", die)
        context.setattr("fedsteph.client.sharing.outgoing.seal", lambda *_: pytest.fail("sealed what was not paid for"))
        with pytest.raises(KeyboardInterrupt):
            outgoing(private(workspace, noise=7.0), MEMBER, RUN, ["other"])


def test_what_is_paid_for_is_what_leaves(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another training that takes the file's place while the first one is on its way is not paid for, and not sent."""
    first = state_of(train_shared(workspace))
    (path,) = workspace.base_folder.glob("private-*/shared.safetensors")

    def swapped(*arguments: object) -> None:
        path.unlink()
        assert not equal(state_of(train_shared(workspace)), first)

    monkeypatch.setattr("fedsteph.client.sharing.outgoing.require_attack_resisted", swapped)
    outgoing(workspace, MEMBER, RUN, ["other"])
    (entry,) = Ledger(workspace.site.audit).entries()
    model = m0_of(workspace.recipe)
    model.load_state_dict(first)
    assert entry.training == model_digest(model)


def test_what_others_may_hold_is_known_without_training_it(workspace: Workspace) -> None:
    workspace = private(workspace, noise=6.0)
    assert kept_model(workspace) is None
    trained = state_of(train_shared(workspace))
    kept = kept_model(workspace)
    assert kept is not None and equal(state_of(kept), trained)
    public = workspace.sharing(None)
    own = kept_model(public)
    assert own is not None and equal(state_of(own), state_of(workspace.local_model(0)))


def test_a_ledger_that_was_put_back_lets_nothing_go(workspace: Workspace) -> None:
    outgoing(workspace, MEMBER, RUN, ["other"])
    (workspace.site.audit.folder / "privacy-ledger.json").unlink()
    with pytest.raises(LedgerError, match="is missing"):
        outgoing(workspace, MEMBER, RUN, ["other"])


def test_a_policy_that_asks_for_privacy_gets_it(workspace: Workspace) -> None:
    asking = under(workspace, replace(OPEN, privacy="dp-sgd"))
    require_shareable(asking)
    with pytest.raises(PrivacyPolicyError):
        require_shareable(asking.sharing(None))


def test_a_site_that_is_made_to_train_in_private_takes_no_part_in_rounds_that_do_not(workspace: Workspace) -> None:
    rounds = under(workspace.sharing(None), replace(OPEN, unsealed_updates=True))
    assert private(rounds).site.file.policy == OPEN


@pytest.mark.parametrize(
    ("layers", "trains", "shared"),
    [
        ("encoder", "direction", True),
        ("encoder", "attention", True),
        ("embed", "direction", True),
        ("embed", "encoder", True),
        ("embed", "attention", False),
        ("attention", "direction", False),
        ("attention", "attention", True),
    ],
)
def test_what_is_trained_must_be_among_what_is_shared(tmp_path: Path, layers: str, trains: str, shared: bool) -> None:
    workspace = private(trained_workspace(tmp_path, f"sharing.layers={layers}"), trains=trains)
    if shared:
        train_shared(workspace)
        assert shared_vector(workspace).norm > 0
        return
    whole = replace(workspace, recipe=replace(workspace.recipe, sharing=SharingConfig()))
    train_shared(whole)
    assert shared_vector(whole).norm > 0  # trained under another recipe, it is found, and is still nothing to share
    with pytest.raises(ConfigError, match="nothing of it would leave"):
        shared_vector(workspace)


SITES = [
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 4}", None),
    ("privacy: dp-sgd\ndp_sgd: {noise: 2, batch: 16, epochs: 20}", None),
    ("privacy: none", None),
    ("privacy: dp-sgd", "needs dp_sgd.epsilon or dp_sgd.noise"),
    ("privacy: dp-sgd\ndp_sgd: {epochs: 3}", "needs dp_sgd.epsilon or dp_sgd.noise"),
    ("dp_sgd: {epsilon: 1}", "dp_sgd is given, and privacy is none"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 1, noise: 2}", "give one, the other is solved for"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 0}", "epsilon must be 0.01 to 100"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 1000}", "epsilon must be 0.01 to 100"),
    ("privacy: dp-sgd\ndp_sgd: {noise: 0.05}", "noise must be 0.3 to 10000"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 1, delta: 0.5}", "delta must be above 0 and at most 0.05"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 1, clip: 0}", "clip and lr must be above 0"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 1, sigma: 2}", "unknown key 'dp_sgd.sigma'"),
    ("privacy: dp_sgd\ndp_sgd: {epsilon: 1}", "'privacy' must be one of 'none', 'dp-sgd'"),
    ("privacy: dp-sgd\ndp_sgd: {epsilon: 1}\npolicy: {unsealed_updates: true}", "unsealed_updates must be false"),
]


@pytest.mark.parametrize(("text", "said"), SITES)
def test_what_a_site_file_may_say(tmp_path: Path, text: str, said: str | None) -> None:
    site = make_site(tmp_path / "site", patients=4)
    (site / "site.yaml").write_text(text + "\n")
    if said is None:
        opened = Site.open(site)
        assert opened.file.privacy == ("dp-sgd" if "dp_sgd" in text else "none")
        return
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        Site.open(site)
