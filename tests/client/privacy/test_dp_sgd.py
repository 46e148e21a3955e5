"""Private training: each patient's gradient against Opacus, its bound, the noise, the draws, and a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from client_builders import CPU, ON_CPU, MemoryCohort, make_cohort
from each_case import each
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import nn

from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.privacy import dp_sgd
from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.privacy.dp_sgd import FIRST_LOGIT, clipped_sum, patient_gradients, train_private
from fedsteph.client.privacy.randomness import Randomness
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.training.batch import batches
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.errors import TooSmallError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.model.survival import nll

ARCHITECTURE = Architecture(width=6, embed=8, attention=5, n_bins=4)
PARTS = ("direction", "embed", "attention", "encoder")


def part_of(name: str = "encoder") -> TrainedPart:
    return TrainedPart(untrained_model(ARCHITECTURE, 7, dropout=0.25), name)


class PlainABMIL(nn.Module):
    """ABMIL out of layers that Opacus knows, with a public readout and one level for all hazards."""

    def __init__(self, m0: BaseModel) -> None:
        super().__init__()
        self.embed, self.V = nn.Linear(6, 8), nn.Linear(8, 5)
        self.U, self.c, self.level = nn.Linear(8, 5), nn.Linear(5, 1), nn.Linear(1, 1)
        state = {name: tensor.detach() for name, tensor in m0.encoder_state().items()}
        names = {"embed": self.embed, "attention_V": self.V, "attention_U": self.U, "attention_c": self.c}
        for name, layer in names.items():
            layer.load_state_dict({"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]})
        self.readout = m0.head.weight.detach().mean(dim=0)
        nn.init.constant_(self.level.bias, 0.0)
        self.level.weight.requires_grad_(False)

    def forward(self, bags: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.embed(bags))
        a = torch.softmax(self.c(torch.tanh(self.V(h)) * torch.sigmoid(self.U(h))), dim=1)
        logit = (a * h).sum(dim=1) @ self.readout + FIRST_LOGIT
        return logit + 0.05 * self.level(torch.zeros(len(bags), 1)).squeeze(1)


def opacus(m0: BaseModel, cohort: MemoryCohort, clip: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-patient gradients, and the sum of those that are shortened to ``clip``, by Opacus."""
    model = GradSampleModule(PlainABMIL(m0), loss_reduction="sum")
    n = len(cohort)
    ((_, batch),) = batches(cohort, range(n), 4, CPU)
    order = [cohort.patients.index(next(p for p in cohort.patients if p.id == key)) for key in batch.ids]
    bags = torch.stack([cohort.bag(i) for i in order])
    hazards = torch.sigmoid(model(bags)).unsqueeze(1).expand(n, 4)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.SGD(trained, lr=1.0), noise_multiplier=0.0, max_grad_norm=clip, expected_batch_size=1
    )
    nll(hazards, batch.bins, batch.events, alpha=0.0).sum().backward()
    each = torch.cat([p.grad_sample.flatten(1) for p in trained], dim=1)
    optimizer.pre_step()
    return each, torch.cat([p.grad.flatten() for p in trained])


def test_every_patients_gradient_is_opacus_own() -> None:
    cohort, part = make_cohort([5] * 9), part_of()
    each, _ = opacus(part.m0, cohort, clip=1.0)
    ((_, batch),) = batches(cohort, range(9), 4, CPU)
    found = patient_gradients(part, torch.zeros(part.size + 1), batch)
    assert torch.allclose(found, each, atol=1e-6) and float(found.norm(dim=1).min()) > 0


def test_the_clipped_sum_is_opacus_own_over_stacks_of_unlike_bags() -> None:
    cohort, part = make_cohort([5] * 9), part_of()
    each, expected = opacus(part.m0, cohort, clip=0.1)
    assert 0 < int((each.norm(dim=1) > 0.1).sum()) < 9  # some are shortened, some not
    found = clipped_sum(part, cohort, list(range(9)), torch.zeros(part.size + 1), 0.1, CPU)
    assert torch.allclose(found.float(), expected, atol=1e-6)
    unlike = make_cohort([3, 9, 1, 4, 9])
    alone = [clipped_sum(part, unlike, [i], torch.zeros(part.size + 1), 0.1, CPU) for i in range(5)]
    together = clipped_sum(part, unlike, list(range(5)), torch.zeros(part.size + 1), 0.1, CPU)
    assert torch.allclose(together, torch.stack(alone).sum(dim=0), atol=1e-7)


@each("name", PARTS)
@each("size", [0.0, 1e-3, 1.0, 100.0])
@each("event", [0, 1])
def test_no_patient_moves_the_sum_by_more_than_the_clip(name: str, size: float, event: int) -> None:
    part, clip = part_of(name), 0.005
    bag = size * torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    lone = MemoryCohort([Patient("x", 3000.0, event, ("a", "b"))], {"x": bag})
    state = 0.1 * torch.randn(part.size + 1, generator=torch.Generator().manual_seed(4)).double()
    free, moved = (clipped_sum(part, lone, [0], state, bound, CPU) for bound in (1e9, clip))
    if size in (1e-3, 1.0):
        assert float(free.norm()) > 2 * clip  # there is something to be clipped
    assert float(moved.norm()) <= clip * (1 + 1e-6)
    assert torch.allclose(moved, free * min(1.0, clip / max(float(free.norm()), 1e-30)), atol=1e-9)


@each("name", PARTS)
def test_a_patient_whose_features_overflow_has_no_say(name: str) -> None:
    """One NaN would be a change of the result that no noise covers."""
    part, sound = part_of(name), make_cohort([5, 5])
    wild = Patient("wild", 300.0, 1, ("a",))
    both = MemoryCohort([*sound.patients, wild], sound.bags | {"wild": torch.full((5, 6), 3e38)})
    ((_, batch),) = batches(both, [2], 4, CPU)
    state = torch.full((part.size + 1,), 0.1)
    assert not bool(patient_gradients(part, state, batch).isfinite().all())
    found = clipped_sum(part, both, [0, 1, 2], state.double(), 0.05, CPU)
    assert torch.allclose(found, clipped_sum(part, sound, [0, 1], state.double(), 0.05, CPU), atol=1e-7)


@each("name", PARTS)
def test_a_part_changes_nothing_else(name: str) -> None:
    part = part_of(name)
    offset = torch.randn(part.size, generator=torch.Generator().manual_seed(5))
    encoders, m0 = part.encoders(offset.expand(2, -1)), part.m0.encoder_state()
    vector = part.vector(offset, model_digest(part.m0))
    for key, start in m0.items():
        changed = name == "encoder" or key.startswith(name) or (name == "direction" and key == "embed.weight")
        assert bool((vector.tensors[key] != 0).any()) == changed
        for i in range(2):
            assert torch.allclose(encoders[key][i], start + vector.tensors[key], atol=1e-6)
    if name == "direction":
        assert int(torch.linalg.matrix_rank(vector.tensors["embed.weight"])) == 1
        assert vector.norm == pytest.approx(float(offset.norm()), rel=1e-5)


def test_the_noise_is_gaussian_and_as_large_as_it_says() -> None:
    cohort = make_cohort([4] * 6)
    part = TrainedPart(untrained_model(Architecture(width=60, embed=64, attention=8, n_bins=4), 7), "embed")
    wide = MemoryCohort(cohort.patients, {p.id: torch.randn(4, 60) for p in cohort.patients})
    settings = DpSgd(noise=3.0, clip=0.02, lr=1.5)
    trained = train_private(part, wide, settings, Mechanism(3.0, 1.0, 1), run=ON_CPU)
    signal = clipped_sum(part, wide, list(range(6)), torch.zeros(part.size + 1), 0.02, CPU)[:-1]
    noise = -(trained.offset.double() * 6 * 0.02 / 1.5) - signal  # undoes the step
    assert stats.kstest(noise.numpy() / (3.0 * 0.02), "norm").pvalue > 1e-4
    assert float(noise.std()) == pytest.approx(0.06, rel=0.1)


def test_patients_are_drawn_independently_and_at_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []

    def watched(part, cohort, indices, state, clip, device):
        drawn.append(indices)
        return torch.zeros(len(state), dtype=torch.float64)

    monkeypatch.setattr(dp_sgd, "clipped_sum", watched)
    train_private(part_of("direction"), make_cohort([2] * 50), DpSgd(noise=1), Mechanism(1.0, 0.3, 400), run=ON_CPU)
    counts = np.zeros((400, 50))
    for step, indices in enumerate(drawn):
        counts[step, indices] = 1
    assert stats.binomtest(int(counts.sum()), counts.size, 0.3).pvalue > 1e-4
    assert len({len(indices) for indices in drawn}) > 10  # not a fixed batch size, which another theorem is for
    assert stats.chisquare(counts.sum(axis=0), np.full(50, counts.sum() / 50)).pvalue > 1e-4


def test_it_learns_without_noise() -> None:
    cohort, part = make_cohort([6] * 80, seed=2), part_of("direction")
    settings = DpSgd(noise=1.0, clip=0.05, lr=5.0)
    trained = train_private(part, cohort, settings, Mechanism(1e-6, 1.0, 30), run=ON_CPU)
    m0, vector = part.m0, part.vector(trained.offset, model_digest(part.m0))
    readout = part.readout.expand(4, -1).contiguous()
    model = vector.applied_to(m0, {"head.weight": readout, "head.bias": torch.full((4,), trained.level)}).eval()
    means = torch.stack([cohort.bag(i)[:, 0].mean() for i in range(80)])  # the risk that times were drawn from
    hazards = torch.stack([model(cohort.bag(i).unsqueeze(0))[0, 0] for i in range(80)]).detach()
    assert stats.spearmanr(means, hazards).statistic > 0.8


def test_two_trainings_have_different_noise() -> None:
    one, other = (
        train_private(part_of(), make_cohort([3] * 5), DpSgd(noise=1), Mechanism(1.0, 1.0, 1), run=ON_CPU)
        for _ in range(2)
    )
    assert not torch.equal(one.offset, other.offset)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_killed_training_goes_on_to_the_same_numbers(tmp_path, monkeypatch, stop) -> None:
    cohort, settings, mechanism = make_cohort([3] * 8), DpSgd(noise=1), Mechanism(1.0, 0.5, 6)
    seed = Randomness.drawn()
    monkeypatch.setattr(Randomness, "drawn", classmethod(lambda cls: seed))
    whole = train_private(part_of(), cohort, settings, mechanism, run=ON_CPU)
    path = tmp_path / "shared.npz"

    def kill(done: int, total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_private(part_of(), cohort, settings, mechanism, run=TrainingRun(CPU, path, kill))
    monkeypatch.setattr(Randomness, "drawn", classmethod(lambda cls: pytest.fail("a new seed was drawn")))
    resumed = train_private(part_of(), cohort, settings, mechanism, run=TrainingRun(CPU, path))
    assert torch.equal(resumed.offset, whole.offset) and resumed.level == whole.level and not path.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_starts_again(tmp_path: Path, content: bytes | None) -> None:
    """With a new seed: nothing of the damaged training has left."""
    path = tmp_path / "shared.npz"
    if content is None:
        np.savez(path, seed=np.zeros(8, np.uint32), step=np.array(1), state=np.zeros(3))
    else:
        path.write_bytes(content)
    steps: list[float] = []
    run = TrainingRun(CPU, path, lambda done, total: steps.append(done))
    train_private(part_of(), make_cohort([3] * 4), DpSgd(noise=1), Mechanism(1.0, 1.0, 2), run=run)
    assert steps == [1, 2] and [file.name for file in tmp_path.iterdir()] == ["shared.npz.damaged"]


def test_nobody_to_train_on() -> None:
    with pytest.raises(TooSmallError, match="no patient"):
        train_private(part_of(), make_cohort([3]).subset([]), DpSgd(noise=1), Mechanism(1.0, 1.0, 2), run=ON_CPU)


def test_the_seed_is_the_systems_and_long_enough() -> None:
    seeds = [Randomness.drawn() for _ in range(50)]
    assert len({seed.words.tobytes() for seed in seeds}) == 50
    bits = np.unpackbits(np.concatenate([seed.words for seed in seeds]).view(np.uint8))
    assert stats.binomtest(int(bits.sum()), len(bits)).pvalue > 1e-6
    first = seeds[0]
    assert first.of_step(3).random() == replace(first).of_step(3).random() != first.of_step(4).random()
