"""The recipe against plain references, and a training that goes on after being killed as if it had not been."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from client_builders import CPU, ON_CPU, SMALL, Held, MemoryCohort, Spy, StoppedError, equal, make_cohort, state_of
from damage import flipped
from each_case import each
from killed_training import CONFIG, SIZES, train

import fedsteph.client.training.batch
import fedsteph.client.training.checkpoint
import fedsteph.client.training.loop
from fedsteph.client.training.checkpoint import Checkpoint
from fedsteph.client.training.loop import derive_seed, fit, learning_rate_factor
from fedsteph.client.training.objective import Outputs
from fedsteph.client.training.optimizer import AdamW
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.config.recipe import TrainingConfig
from fedsteph.common.errors import TooSmallError, TrainingError
from fedsteph.common.host.checked_file import read_bytes
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import untrained_model

HERE = Path(__file__).parent
SIXTEEN = [1, 9, 4, 7, 2, 8, 3, 5, 6, 9, 1, 4, 7, 3, 2, 8]


def train_with(model: torch.nn.Module, cohort, config: TrainingConfig, forward=None, **options) -> None:
    def default(batch):
        return Outputs(model(batch.bags, batch.mask))

    options = {"seed": 3, "run": ON_CPU, **options}
    fit(model, forward or default, cohort, config, **options)


class RecordingAdamW(AdamW):
    rates: list[float]

    def step(self, closure=None):
        self.rates += [group["lr"] for group in self.param_groups[:1]]
        return super().step(closure)


@pytest.fixture
def rates(monkeypatch) -> list[float]:
    monkeypatch.setattr(RecordingAdamW, "rates", [], raising=False)
    monkeypatch.setattr(fedsteph.client.training.loop, "AdamW", RecordingAdamW)
    return RecordingAdamW.rates


# ---------------------------------------------------------------- schedule


@each(
    ("step", "total", "warmup", "factor"),
    [
        (0, 10, 2, 0.0),
        (1, 10, 2, 0.5),
        (2, 10, 2, 1.0),
        (4, 10, 2, 0.5 + math.sqrt(2) / 4),
        (6, 10, 2, 0.5),
        (8, 10, 2, 0.5 - math.sqrt(2) / 4),
        (10, 10, 2, 0.0),
        (0, 4, 0, 1.0),
        (2, 4, 0, 0.5),
        (3, 4, 4, 0.75),
        (0, 1, 1, 0.0),
    ],
)
def test_schedule_by_hand(step, total, warmup, factor):
    assert learning_rate_factor(step, total, warmup) == pytest.approx(factor, abs=1e-15)


@pytest.mark.parametrize(("warmup_epochs", "warmup"), [(0.0, 0), (0.5, 2), (1.0, 4), (1.75, 7), (5.0, 20)])
def test_every_update_has_its_learning_rate(rates, warmup_epochs, warmup):
    """4 steps in each of 5 epochs, against PyTorch's own cosine."""
    config = TrainingConfig(epochs=5, lr=0.03, batch_bags=3, warmup_epochs=warmup_epochs)
    train_with(untrained_model(SMALL, 0), make_cohort([2] * 11), config)
    reference = torch.optim.SGD([torch.zeros(1)], lr=config.lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=max(1, 20 - warmup))
    expected = [config.lr * i / warmup for i in range(warmup)]
    for _ in range(20 - warmup):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        cosine.step()
    assert rates == pytest.approx(expected, abs=1e-12)
    if warmup < 20:
        assert rates[-1] < 0.03 * config.lr


def test_the_very_first_update_changes_nothing():
    model = untrained_model(SMALL, 0)
    before = state_of(model)
    train_with(model, make_cohort([3] * 8), TrainingConfig(epochs=1, lr=1.0, weight_decay=1.0, batch_bags=8))
    assert equal(state_of(model), before)


def test_weight_decay_reaches_matrices_only(rates):
    """Under a loss without gradient nothing but decay moves a weight."""
    model = untrained_model(SMALL, 0)
    before = state_of(model)
    config = TrainingConfig(epochs=3, lr=0.1, weight_decay=0.5, batch_bags=4)

    def forward(batch):
        hazards = model(batch.bags, batch.mask)
        return Outputs(torch.full_like(hazards, 0.5).detach(), hazards.sum(dim=1) * 0.0)

    train_with(model, make_cohort([3] * 8), config, forward)
    shrunk = math.prod(1 - rate * 0.5 for rate in rates)
    assert shrunk < 0.9
    for name, tensor in state_of(model).items():
        torch.testing.assert_close(tensor, before[name] * (shrunk if tensor.dim() >= 2 else 1.0), rtol=1e-5, atol=0)


# ---------------------------------------------------------------- the steps


def plain_reference(
    model: BaseModel, cohort: MemoryCohort, config: TrainingConfig, steps: list[list[int]], rates: list[float]
) -> None:
    """All of a step's bags one by one in one graph, the mean of their losses, and torch's own AdamW."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    for step, rate in zip(steps, rates, strict=True):
        losses = []
        for i in step:
            hazards = model(cohort.bag(i).unsqueeze(0))[0]
            patient = cohort.patients[i]
            year = min(int(patient.t // 365), SMALL.n_bins - 1)
            alive = torch.log1p(-hazards)
            if patient.e:
                losses.append(-(alive[:year].sum() + hazards[year].log()))
            else:
                losses.append(-(1 - config.alpha) * alive[: year + 1].sum())
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("pass_budget", [4096, 12])
@pytest.mark.parametrize("sizes", [SIXTEEN, SIXTEEN * 2 + [5] * 8])
def test_steps_equal_the_plain_reference(monkeypatch, rates, sizes, pass_budget, dtype, tolerance):
    monkeypatch.setattr(fedsteph.client.training.batch, "_INSTANCES_PER_PASS", pass_budget)
    spy = Spy(monkeypatch, fedsteph.client.training.loop, "Loader")
    config = TrainingConfig(epochs=4, lr=1e-3, weight_decay=0.1, batch_bags=16, alpha=0.4)
    cohort = make_cohort(sizes)
    cohort.bags = {key: bag.to(dtype) for key, bag in cohort.bags.items()}
    model, expected = (untrained_model(SMALL, seed=0, dropout=0.0).to(dtype) for _ in range(2))
    train_with(model, cohort, config)
    steps = [step for call in spy.calls for step in call.args[1]]
    per_epoch = math.ceil(len(sizes) / 16)
    for epoch in range(config.epochs):
        drawn = [i for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step]
        assert sorted(drawn) == list(range(len(sizes)))
    plain_reference(expected, cohort, config, steps, list(rates))
    for name, tensor in model.state_dict().items():
        # Softmax does not see this one: in float32 AdamW magnifies the rounding of a gradient that is 0.
        if dtype == torch.float64 or name != "attention_c.bias":
            torch.testing.assert_close(tensor, expected.state_dict()[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("n", "drop_last", "expected"),
    [
        (40, False, [16, 16, 8]),
        (40, True, [16, 16]),
        (17, True, [16]),
        (32, True, [16, 16]),
        (16, True, [16]),
        (10, True, [10]),
        (1, True, [1]),
    ],
)
def test_a_remainder_is_dropped_only_beside_a_full_batch(monkeypatch, n, drop_last, expected):
    spy = Spy(monkeypatch, fedsteph.client.training.loop, "Loader")
    config = TrainingConfig(epochs=2, batch_bags=16, drop_last=drop_last)
    train_with(untrained_model(SMALL, 0), make_cohort([2] * n), config)
    assert [[len(step) for step in call.args[1]] for call in spy.calls] == [expected] * 2


def peak_saved_bytes(cohort: MemoryCohort, batch_bags: int) -> int:
    live = peak = 0

    def release(n_bytes: int) -> None:
        nonlocal live
        live -= n_bytes

    def pack(tensor: torch.Tensor) -> Held:
        nonlocal live, peak
        held, n_bytes = Held(tensor), tensor.nbytes
        live += n_bytes
        peak = max(peak, live)
        weakref.finalize(held, release, n_bytes)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        train_with(untrained_model(SMALL, 0), cohort, TrainingConfig(epochs=1, batch_bags=batch_bags))
    assert live == 0
    return peak


def test_activations_do_not_grow_with_the_step(monkeypatch):
    monkeypatch.setattr(fedsteph.client.training.batch, "_INSTANCES_PER_PASS", 30)
    cohort = make_cohort([30] * 16)
    assert peak_saved_bytes(cohort, 16) == peak_saved_bytes(cohort, 1) > 30 * SMALL.embed * 4


# ---------------------------------------------------------------- determinism


def test_a_training_is_a_function_of_its_seed():
    first, again, other = train(None), train(None), train(None, seed=6)
    assert equal(state_of(first), state_of(again))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_every_epoch_of_every_seed_has_its_own_order_and_dropout(monkeypatch):
    spy, drawn, model = Spy(monkeypatch, fedsteph.client.training.loop, "Loader"), [], untrained_model(SMALL, 0)

    def forward(batch):
        drawn.append(float(torch.rand(())))
        return Outputs(model(batch.bags, batch.mask))

    for seed in (1, 2):
        train_with(model, make_cohort([2] * 16), TrainingConfig(epochs=3, batch_bags=16), forward, seed=seed)
    orders = {tuple(step) for call in spy.calls for step in call.args[1]}
    assert len(orders) == len({*drawn}) == len(drawn) == 6


def test_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    np.random.seed(1)
    first = train(None)
    torch.manual_seed(2)
    np.random.seed(2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    second = train(None)
    assert equal(state_of(first), state_of(second)) and torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_seeds_of_purposes_are_apart():
    seeds = {
        derive_seed(s, *labels) for s in range(20) for labels in [("a",), ("b",), ("a", 1), ("a", 11), ("a", 1, 1)]
    }
    assert len(seeds) == 100 and all(0 <= seed < 2**63 for seed in seeds) and derive_seed(7, "x") == derive_seed(7, "x")


def test_dropout_is_on_while_training_and_off_afterwards():
    model = untrained_model(SMALL, 0)
    modes = []

    def forward(batch):
        modes.append(model.training)
        return Outputs(model(batch.bags, batch.mask))

    train_with(model.eval(), make_cohort([2] * 4), TrainingConfig(epochs=2), forward)
    assert modes == [True, True] and not model.training


# ---------------------------------------------------------------- resume


@pytest.fixture(autouse=True)
def checkpoints_are_written_at_every_epoch(monkeypatch):
    monkeypatch.setattr(fedsteph.client.training.checkpoint, "EVERY_SECONDS", 0)


class Whole:
    """The training that nobody stopped: its weights, and how many calls of the model each epoch ended with."""

    def __init__(self) -> None:
        calls, self.ends = [0], [0]
        model = train(None, calls.append, progress=lambda done, total: self.ends.append(calls[-1]))
        self.weights, self.calls = state_of(model), calls[-1]

    def left_after(self, stopped: int) -> int:
        """Calls that a training stopped in call ``stopped`` still has to make."""
        return self.calls - max(end for end in self.ends if end < stopped)


@pytest.fixture(scope="module")
def whole() -> Whole:
    torch.set_num_threads(1)
    return Whole()


def stop_at(n: int):
    def on_call(call: int) -> None:
        if call == n:
            raise StoppedError

    return on_call


@pytest.mark.parametrize("share", [0.05, 0.3, 0.55, 0.7, 0.99])
def test_a_training_stopped_within_an_epoch_goes_on_to_the_same_weights(tmp_path, whole, share):
    stopped, path, resumed = int(share * whole.calls) + 1, tmp_path / "x.checkpoint", []
    with pytest.raises(StoppedError):
        train(path, stop_at(stopped))
    assert path.exists() == (stopped > whole.ends[1]) and equal(state_of(train(path, resumed.append)), whole.weights)
    assert len(resumed) == whole.left_after(stopped) and not path.exists()


def test_a_training_may_be_stopped_again_and_again(tmp_path, whole):
    for _ in range(2):
        with pytest.raises(StoppedError):
            train(tmp_path / "x", stop_at(whole.ends[1] + 2))
    assert equal(state_of(train(tmp_path / "x")), whole.weights)


def test_a_killed_process_is_resumed_by_another_one(tmp_path, whole):
    stopped, path, resumed = whole.ends[2] + 3, tmp_path / "x.checkpoint", []
    folders = [str(HERE.parents[2]), str(HERE.parents[1] / "builders"), str(HERE)]
    killed = subprocess.run(
        [sys.executable, str(HERE / "killed_training.py"), str(path), str(stopped)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert equal(state_of(train(path, resumed.append)), whole.weights)
    assert len(resumed) == whole.left_after(stopped) < whole.calls


def test_progress_goes_on_where_it_was(tmp_path, whole):
    seen = []
    with pytest.raises(StoppedError):
        train(tmp_path / "x", stop_at(whole.ends[2] + 1))
    train(tmp_path / "x", progress=lambda *done: seen.append(done))
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 6},
        {"config": replace(CONFIG, lr=2e-2)},
        {"config": replace(CONFIG, alpha=0.1)},
        {"cohort": make_cohort(SIZES, seed=1)},
        {"cohort": make_cohort([*SIZES, 3])},
    ],
)
def test_a_checkpoint_of_another_training_is_not_resumed(tmp_path, whole, changes):
    with pytest.raises(StoppedError):
        train(tmp_path / "x", stop_at(whole.ends[2] + 1))
    assert (tmp_path / "x").exists()
    assert equal(state_of(train(tmp_path / "x", **changes)), state_of(train(None, **changes)))


def test_a_checkpoint_is_written_no_oftener_than_asked(tmp_path, monkeypatch):
    def stop_late(batch):
        if len(seen) == 3:
            raise StoppedError
        return Outputs(model(batch.bags, batch.mask))

    monkeypatch.setattr(fedsteph.client.training.checkpoint, "EVERY_SECONDS", 1e9)
    seen, model = [], untrained_model(SMALL, 0)
    with pytest.raises(StoppedError):
        train_with(
            model,
            make_cohort([2] * 4),
            TrainingConfig(epochs=4),
            stop_late,
            run=TrainingRun(CPU, tmp_path / "x", lambda done, total: seen.append(done)),
        )
    assert seen == [1, 2, 3] and not (tmp_path / "x").exists()


@pytest.mark.parametrize("damage", ["empty", "junk", "truncated", "no key", "no weights"])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_starts_again(tmp_path, damage, whole, caplog):
    path = tmp_path / "local.checkpoint"
    with pytest.raises(StoppedError):
        train(path, stop_at(whole.ends[2] + 1))
    content = path.read_bytes()
    state = torch.load(io.BytesIO(read_bytes(path)), weights_only=True)
    if damage == "no key":
        torch.save({"epoch": 1}, path)
    elif damage == "no weights":
        torch.save({**state, "model": {}}, path)
    else:
        path.write_bytes({"empty": b"", "junk": b"junk" * 99, "truncated": content[: len(content) // 2]}[damage])
    assert equal(state_of(train(path)), whole.weights)
    assert [file.name for file in tmp_path.iterdir()] == ["local.checkpoint.damaged"]
    assert f"{path} is damaged; it is set aside" in caplog.text


def test_a_checkpoint_with_a_flipped_bit_is_never_resumed(tmp_path, monkeypatch):
    """271 of 300 gave other weights once."""
    monkeypatch.setattr(fedsteph.client.training.checkpoint, "EVERY_SECONDS", 0.0)
    path, model = tmp_path / "x", untrained_model(SMALL, 0)
    trained, before = untrained_model(SMALL, 1), state_of(model)
    Checkpoint(path, "key", trained, torch.optim.AdamW(trained.parameters())).save(2)
    content, checkpoint = path.read_bytes(), Checkpoint(path, "key", model, torch.optim.AdamW(model.parameters()))
    for at in np.random.default_rng(0).integers(0, 8 * len(content), 300).tolist():
        path.write_bytes(flipped(content, at))
        assert checkpoint.resume(CPU) == 0, at
        assert equal(state_of(model), before), at
    path.write_bytes(content)
    assert checkpoint.resume(CPU) == 2 and equal(state_of(model), state_of(trained))


# ---------------------------------------------------------------- refusals


@each("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training(value):
    model = untrained_model(SMALL, 0)
    calls = []

    def forward(batch):
        calls.append(1)
        hazards = model(batch.bags, batch.mask)
        return Outputs(hazards, hazards.sum(dim=1) * (value if len(calls) == 2 else 0.0))

    with pytest.raises(TrainingError, match="epoch 2"):
        train_with(model, make_cohort([2] * 4), TrainingConfig(epochs=5), forward)
    assert len(calls) == 2


def test_nobody_to_train_on():
    empty = make_cohort([2]).subset([])
    with pytest.raises(TooSmallError):
        train_with(untrained_model(SMALL, 0), empty, TrainingConfig())
