"""What is told of every epoch is what TensorBoard reads, and what the loss was."""

from __future__ import annotations

import importlib.util
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from client_builders import CPU, Spy, m0_of, make_cohort, make_recipe
from sites import TINY, make_site
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fedsteph.client.training.loop
from fedsteph.client.data.bags import Cohort
from fedsteph.client.site.site import Site
from fedsteph.client.training import epoch_log
from fedsteph.client.training.epoch_log import require_tensorboard, tell, to_tensorboard
from fedsteph.client.training.loop import fit
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.errors import ConfigError, TrainingError
from fedsteph.common.model.base_model import BaseModel

Told = dict[str, dict[str, list[tuple[int, float]]]]


def read_back(folder: Path) -> Told:
    """Training -> scalar -> (epoch, value), by TensorBoard's own reader."""
    found: Told = {}
    for path in sorted(folder.iterdir()):
        events = EventAccumulator(str(path))
        events.Reload()
        tags = events.Tags()["scalars"]
        found[path.name] = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    return found


@pytest.fixture(autouse=True)
def nobody_listens():
    """Neither before a test nor after it."""
    assert epoch_log._listeners == []
    yield
    assert epoch_log._listeners == []


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, dict[str, float]]] = []

    def __call__(self, training, epoch, scalars):
        self.heard.append((training, epoch, dict(scalars)))


@pytest.fixture
def ear():
    own = Ear()
    epoch_log._listeners.append(own)
    yield own
    epoch_log._listeners.remove(own)


def test_event_files_hold_what_was_told(tmp_path):
    with to_tensorboard(tmp_path / "new" / "logs"):
        for epoch in (1, 2, 3):
            tell("local, fold 0", epoch, {"loss": 1 / epoch, "lr": 1e-4 * epoch})
            tell("STEPH, fold 0", epoch, {"w": -0.5 * epoch})
        tell("local, fold 1", 7, {"loss": 2.5})
    f32 = np.float32
    assert read_back(tmp_path / "new" / "logs") == {
        "STEPH-fold-0": {"w": [(1, -0.5), (2, -1.0), (3, -1.5)]},
        "local-fold-0": {
            "loss": [(1, 1.0), (2, 0.5), (3, f32(1 / 3))],
            "lr": [(1, f32(1e-4)), (2, f32(2e-4)), (3, f32(3e-4))],
        },
        "local-fold-1": {"loss": [(7, 2.5)]},
    }


def test_what_was_told_can_be_read_while_the_training_goes_on(tmp_path):
    with to_tensorboard(tmp_path):
        tell("local", 1, {"loss": 0.5})
        assert read_back(tmp_path) == {"local": {"loss": [(1, 0.5)]}}
        tell("local", 2, {"loss": 0.25})
    assert read_back(tmp_path) == {"local": {"loss": [(1, 0.5), (2, 0.25)]}}


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b\\c", "..", "fold\n0"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    logs = tmp_path / "deep" / "logs"
    with to_tensorboard(logs):
        tell(name, 1, {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["logs"] and list(logs.rglob("events*"))


def test_without_a_folder_nothing_is_written_and_nothing_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: pytest.fail("TensorBoard was asked for"))
    monkeypatch.chdir(tmp_path)
    with to_tensorboard(None):
        tell("local", 1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_something_is_told(tmp_path):
    with to_tensorboard(tmp_path / "logs"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nobody_hears_what_is_told_after_the_end(tmp_path):
    with to_tensorboard(tmp_path):
        tell("local", 1, {"loss": 1.0})
    tell("local", 2, {"loss": 2.0})
    assert read_back(tmp_path) == {"local": {"loss": [(1, 1.0)]}}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_fails_leaves_whole_files_and_no_listener(tmp_path, error):
    with pytest.raises(error), to_tensorboard(tmp_path):
        tell("local", 1, {"loss": 1.0})
        raise error
    assert epoch_log._listeners == [] and read_back(tmp_path) == {"local": {"loss": [(1, 1.0)]}}


def test_two_listeners_hear_the_same(tmp_path, ear):
    with to_tensorboard(tmp_path / "a"), to_tensorboard(tmp_path / "b"):
        tell("local", 1, {"loss": 1.0})
    assert read_back(tmp_path / "a") == read_back(tmp_path / "b") == {"local": {"loss": [(1, 1.0)]}}
    assert ear.heard == [("local", 1, {"loss": 1.0})]


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == "tensorboard" else real(name, *of)
    )
    site = make_site(tmp_path / "site", patients=2)
    (site / "site.yaml").write_text("tensorboard: true\n")

    def write() -> None:
        with to_tensorboard(tmp_path / "logs"):
            pytest.fail("it was let in")

    for call in (lambda: require_tensorboard("--tensorboard"), write, lambda: Site.open(site)):
        with pytest.raises(ConfigError, match="asks for TensorBoard, which is not installed") as caught:
            call()
        assert "pip install 'fedsteph[tensorboard]'" in str(caught.value) and caught.value.where
    assert epoch_log._listeners == []
    (site / "site.yaml").write_text("tensorboard: false\n")
    assert Site.open(site).tensorboard is None


def test_an_installed_package_is_no_problem():
    assert require_tensorboard("--tensorboard") is None


COHORT = make_cohort([3, 5, 2, 4, 6, 3], seed=2)


def config(*settings: str) -> TrainingConfig:
    return make_recipe("training.epochs=3", "training.lr=0.05", *settings).training


def start(dropout: float = 0.0) -> BaseModel:
    return m0_of(make_recipe("model.n_bins=6", f"model.dropout={dropout}"))


def train(model: BaseModel, cohort: Cohort, training: TrainingConfig, name: str) -> None:
    def forward(batch):
        return Outputs(model(batch.bags, batch.mask))

    fit(model, forward, cohort, training, seed=3, run=TrainingRun(CPU, name=name))


def plain_loss(model: BaseModel, cohort: Cohort, alpha: float, index: list[int]) -> torch.Tensor:
    """Mean negative log-likelihood of some patients, bag by bag and bin by bin."""
    total = torch.zeros(())
    for i in index:
        hazards, patient = model(cohort.bag(i).unsqueeze(0))[0], cohort.patients[i]
        y = min(int(patient.t // 365), 5)
        log_alive = [torch.log(1 - hazards[j]) for j in range(6)]
        if patient.e:
            total = total - (sum(log_alive[:y]) + torch.log(hazards[y]))
        else:
            total = total - (1 - alpha) * sum(log_alive[: y + 1])
    return total / len(index)


def plain_training(model: BaseModel, cohort: Cohort, training: TrainingConfig, epochs: int) -> list[dict[str, float]]:
    """AdamW on the whole cohort at every step, by its formulas; loss before each step, and its learning rate."""
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    told = []
    for step in range(epochs):
        loss = plain_loss(model, cohort, training.alpha, list(range(len(cohort))))
        model.zero_grad()
        loss.backward()
        lr = training.lr * 0.5 * (1 + math.cos(math.pi * step / epochs))
        told.append({"loss": float(loss.detach()), "lr": lr})
        with torch.no_grad():
            for name, p in model.named_parameters():
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * p.grad)
                second.mul_(0.999).add_(0.001 * p.grad**2)
                if p.dim() >= 2:
                    p.mul_(1 - lr * training.weight_decay)
                m_hat, v_hat = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
                p.sub_(lr * m_hat / (v_hat.sqrt() + 1e-8))
    return told


def test_every_epoch_s_mean_loss_and_rate_are_told(ear):
    """Of a cohort that is one step: the loss before it, by a training written out."""
    training = config("training.batch_bags=6", "training.warmup_epochs=0")
    model = start()
    expected = plain_training(deepcopy(model), COHORT, training, 3)
    train(model, COHORT, training, "local, fold 0")
    assert [(name, epoch) for name, epoch, _ in ear.heard] == [("local, fold 0", epoch) for epoch in (1, 2, 3)]
    for (_, _, scalars), wanted in zip(ear.heard, expected, strict=True):
        assert scalars.keys() == {"loss", "lr"} and scalars["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert scalars["lr"] == pytest.approx(wanted["lr"], rel=1e-9)
    assert expected[0]["loss"] > 1.05 * expected[2]["loss"]


def test_an_epoch_of_several_steps_is_told_by_their_mean(ear):
    """The learning rate is so small that nothing moves, and every step is judged by M0."""
    training = config("training.batch_bags=2", "training.lr=1e-12", "training.epochs=2")
    model = start()
    expected = float(plain_loss(model, COHORT, training.alpha, list(range(6))).detach())
    train(model, COHORT, training, "local, fold 0")
    assert [scalars["loss"] for _, _, scalars in ear.heard] == pytest.approx([expected] * 2, rel=1e-5)


def test_what_is_told_is_what_the_steps_gave_back(ear, monkeypatch):
    """With dropout, and with a step that is smaller than the others."""
    spy = Spy(monkeypatch, fedsteph.client.training.loop, "backward")
    train(start(dropout=0.5), COHORT, config("training.batch_bags=4", "training.drop_last=false"), "x")
    losses = [float(call.result) for call in spy.calls]
    assert len(losses) == 6
    means = [(losses[2 * k] + losses[2 * k + 1]) / 2 for k in range(3)]
    assert [scalars["loss"] for _, _, scalars in ear.heard] == pytest.approx(means, rel=1e-6)


def test_a_training_without_a_name_tells_nothing(ear):
    train(start(), COHORT, config(), "")
    assert ear.heard == []


def test_who_listens_changes_no_weight(ear):
    quiet, loud = start(0.25), start(0.25)
    train(quiet, COHORT, config(), "")
    train(loud, COHORT, config(), "local")
    assert len(ear.heard) == 3
    assert all(torch.equal(a, b) for a, b in zip(quiet.parameters(), loud.parameters(), strict=True))


def test_a_loss_that_is_not_finite_is_told_to_nobody(ear):
    model = start()
    with torch.no_grad():
        model.head.bias[0] = math.nan
    with pytest.raises(TrainingError, match="not finite"):
        train(model, COHORT, config(), "local")
    assert ear.heard == []


@pytest.mark.parametrize("state", ["fedsteph-state", "own"])
def test_a_site_that_asks_for_it_has_its_epochs_in_its_state_folder(cli, tmp_path, state):
    site = make_site(tmp_path / "site", patients=8)
    (site / "site.yaml").write_text(f"tensorboard: true\ndevice: cpu\nstate: {state}\n")
    code, _, _ = cli("train", site, *(word for setting in TINY for word in ("--set", setting)))
    assert code == 0
    found = read_back(site / state / "tensorboard")
    assert list(found) == ["local-all-patients", "local-fold-0", "local-fold-1"]
    for scalars in found.values():
        assert {tag: [epoch for epoch, _ in events] for tag, events in scalars.items()} == {
            "loss": [1, 2],
            "lr": [1, 2],
        }
        assert all(math.isfinite(value) and value > 0 for _, value in scalars["loss"])


@pytest.mark.parametrize("words", ["", "tensorboard: false\n"])
def test_a_site_that_does_not_has_none(cli, tmp_path, words):
    site = make_site(tmp_path / "site", patients=8)
    (site / "site.yaml").write_text(f"device: cpu\n{words}")
    code, _, _ = cli("train", site, "--out", tmp_path / "out", *(word for s in TINY for word in ("--set", s)))
    assert code == 0 and list((tmp_path / "out").rglob("*.safetensors"))
    assert not [path for path in tmp_path.rglob("*") if "tfevents" in path.name or path.name == "tensorboard"]
