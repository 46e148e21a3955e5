"""Gradients, weights and losses against plain computations, and that each signal points at members."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, ON_CPU, Spy, m0_of, make_cohort, make_recipe, make_vectors
from each_case import each
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

import fedsteph.client.attack.gradients
from fedsteph.client.attack.gradients import PrivateTraining, Pulls, pulls
from fedsteph.client.attack.head import losses, slide_vectors
from fedsteph.client.attack.signals import HEAD_SIGNALS, SIGNALS, signals
from fedsteph.client.privacy.accounting import Mechanism
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.privacy.dp_sgd import train_private
from fedsteph.client.privacy.trained_part import TrainedPart
from fedsteph.client.training.survival_fit import start_head
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.errors import TrainingError
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import bin_of, empirical_hazard, nll
from fedsteph.common.vector.task_vector import TaskVector

COHORT = make_cohort([3, 7, 1, 5, 2, 9, 4, 6], seed=2)


def test_a_patient_who_cannot_be_computed_ends_the_attack_and_does_not_pass_for_safe():
    recipe = make_recipe()
    cohort = make_cohort([3, 7, 1, 5, 2, 9, 4, 6], seed=2)
    cohort.bags[cohort.patients[3].id].fill_(3e38)
    with pytest.raises(TrainingError, match="not finite"):
        signals(cohort, recipe, list(make_vectors(recipe, 3).values()), CPU)


def plain_directions(recipe, names) -> tuple[torch.Tensor, torch.Tensor]:
    """``-d nll_i / d theta`` by one ordinary backward pass per patient; and those of the risk direction."""
    model = m0_of(recipe)
    start_head(model.head, replace(recipe, model=replace(recipe.model, head_bias="empirical")), COHORT)
    bins = torch.from_numpy(bin_of(COHORT.times, recipe.model.n_bins))
    rows, heads = [], []
    for i in range(len(COHORT)):
        loss = nll(model(COHORT.bag(i)[None]), bins[i : i + 1], torch.tensor(COHORT.events[i : i + 1]))
        model.zero_grad()
        loss.sum().backward()
        gradient = {name: p.grad if p.grad is not None else 0 * p for name, p in model.named_parameters()}
        rows.append(-torch.cat([gradient[name].reshape(-1) for name in names]))
        heads.append(-gradient["head.weight"].mean(dim=0))
    return torch.stack(rows).double(), torch.stack(heads).double()


@pytest.mark.parametrize("block", [None, 3], ids=["one block", "blocks of 3"])
@pytest.mark.parametrize("layers", ["encoder", "attention", "embed"])
@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_the_pulls_are_products_of_plain_gradients(monkeypatch, loss, layers, block):
    recipe = make_recipe("model.dropout=0.0", f"training.loss={loss}")
    recipe = replace(recipe, sharing=SharingConfig(layers=layers))
    vectors = list(make_vectors(recipe, 2).values())
    prefix = {"encoder": "", "attention": "attention_", "embed": "embed."}[layers]
    names = [name for name in vectors[0].tensors if name.startswith(prefix)]
    rows, heads = plain_directions(recipe, names)
    taus = torch.stack([torch.cat([v.tensors[n].reshape(-1) for n in names]) for v in vectors]).double()
    if block:
        monkeypatch.setattr(fedsteph.client.attack.gradients, "_BLOCK", 4 * (rows.shape[1] + heads.shape[1]) * block)
    batched = Spy(monkeypatch, fedsteph.client.attack.gradients, "batches")
    directions = torch.randn(2, recipe.model.embed, generator=torch.Generator().manual_seed(0))
    found, of_heads = pulls(COHORT, recipe, [replace(v, head=d) for v, d in zip(vectors, directions, strict=True)], CPU)
    assert of_heads is not None
    torch.testing.assert_close(of_heads.gram, heads @ heads.T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of_heads.products, directions.double() @ heads.T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.gram, rows @ rows.T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.products, taus @ rows.T, rtol=1e-4, atol=1e-6)
    assert len(batched.calls) == (1 if block is None else 3 + 3)  # blocks 0, 1, 2, and 1 and 2 beside 0, 2 beside 1


def test_the_weights_of_a_sum_of_directions_are_found_again():
    """Directions that have much in common: the product with a vector cannot tell them apart, the weights can."""
    rng = torch.Generator().manual_seed(0)
    common = torch.randn(1, 400, generator=rng, dtype=torch.float64)
    rows = 3 * common + torch.randn(40, 400, generator=rng, dtype=torch.float64)
    inside = torch.arange(40) % 2 == 0
    tau = inside.double() @ rows
    found = Pulls(rows @ rows.T, (rows @ tau)[None])
    weights = found.weights()[0]
    assert float(weights[inside].min()) > 0.7 and float(weights[~inside].max()) < 0.3
    products = found.products[0]
    assert float(products[inside].min()) < float(products[~inside].max())


@each("trains", ["direction", "embed", "encoder"])
def test_private_training_with_next_to_no_noise_hides_nobody(trains):
    """Its directions are its own: clipped, of the part that it trains, under the head that it uses."""
    cohort, recipe = make_cohort([6] * 40, width=64, seed=5), make_recipe("model.dropout=0.0", width=64)
    settings, mechanism = DpSgd(noise=1.0, trains=trains, lr=0.1), Mechanism(1e-3, 1.0, 5)
    part, inside = TrainedPart(m0_of(recipe), trains), np.arange(40) % 2 == 0
    members = cohort.subset([cohort.patients[i].id for i in np.flatnonzero(inside)])
    trained = train_private(part, members, settings, mechanism, run=ON_CPU)
    vector = part.vector(trained.offset, str(recipe.model.m0_sha256))
    private = PrivateTraining(settings, mechanism)
    found, _ = pulls(cohort, recipe, [vector], CPU, private)
    assert float(found.gram.diagonal().max()) <= settings.clip**2 * (1 + 1e-4)
    weights = found.weights(private.ridge)[0].numpy()
    assert roc_auc_score(inside, weights) > 0.9
    assert roc_auc_score(inside, found.weights(1e6)[0].numpy()) < roc_auc_score(inside, weights)


def test_the_ridge_that_known_noise_calls_for():
    """Coins of variance 1/4 behind directions of clip 0.5; 9 steps at rate 1/2 under noise 3."""
    private = PrivateTraining(DpSgd(noise=3.0, clip=0.5), Mechanism(3.0, 0.5, 9))
    noise_variance = 9 * (3.0 * 0.5 / (0.5 * 20)) ** 2  # of the sum of nine steps, each over rate n = 10
    signal = (9 * 0.5 / (0.5 * 20)) ** 2  # of one patient, who is in half of the steps
    assert private.ridge == pytest.approx(noise_variance / signal / 0.25) and private.ridge == pytest.approx(4.0)


def test_the_losses_are_those_of_the_best_head():
    """scipy's optimiser, on the same objective written out once more, ends at the same losses."""
    cohort = make_cohort([2] * 30, seed=4)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 3)) * [1.0, 5.0, 0.0]  # one number that is the same for all
    bins, e, n_bins = bin_of(cohort.times, 4), cohort.events, 4
    start = empirical_hazard(bins, e, n_bins)
    start = np.log(start / (1 - start))
    spread = z.std(axis=0, ddof=1)
    x = (z - z.mean(axis=0)) / np.where(spread > 0, spread, 1)

    def each(p: np.ndarray) -> np.ndarray:
        h = 1 / (1 + np.exp(-((x @ p[:3])[:, None] + p[3:])))
        log_s = np.cumsum(np.log(1 - h), axis=1)
        before = np.column_stack([np.zeros(30), log_s])
        i = np.arange(30)
        return -np.where(e > 0, before[i, bins] + np.log(h[i, bins]), 0.5 * log_s[i, bins])

    def objective(p: np.ndarray) -> float:
        return each(p).mean() + (p[:3] ** 2).sum() / 2 + 1e-2 * ((p[3:] - start) ** 2).sum() / 2

    best = minimize(objective, np.concatenate([np.zeros(3), start]), method="BFGS", options={"gtol": 1e-9})
    found = losses(torch.from_numpy(z), cohort, n_bins, 0.5).numpy()
    np.testing.assert_allclose(found, each(best.x), atol=5e-3)
    assert abs(best.x[0]) > 1e-3  # the head is not the baseline alone


def test_slide_vectors_are_in_the_patients_order():
    model = m0_of(make_recipe())
    found = slide_vectors(model, COHORT, CPU)
    for i in range(len(COHORT)):
        with torch.no_grad():
            hazards = torch.sigmoid(model.head(found[i].float()))
            torch.testing.assert_close(hazards, model.eval()(COHORT.bag(i)[None])[0], rtol=1e-4, atol=1e-6)


def test_every_signal_points_at_members():
    """Vectors of a few descent steps on known halves: a patient scores higher where it was in than where it was not."""
    cohort, recipe = make_cohort([6] * 40, seed=5), make_recipe("model.embed=24", "model.dropout=0.0")
    coins = np.random.default_rng(0).random((4, 40)) < 0.5
    inside = np.concatenate([coins, ~coins])
    vectors = []
    for members in inside:
        model = m0_of(recipe)
        optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
        for _ in range(10):
            optimizer.zero_grad()
            _loss_of(model, cohort, np.flatnonzero(members)).backward()
            optimizer.step()
        vectors.append(TaskVector.between(model, m0_of(recipe), head=True))
    told: list[float] = []
    scores = signals(cohort, recipe, vectors, CPU, progress=lambda done, total: told.append(done / total))
    without = signals(cohort, recipe, [vector.without_head() for vector in vectors], CPU)
    assert {*without} == {*SIGNALS} and all(np.array_equal(score, scores[name]) for name, score in without.items())
    assert {*scores} == {*SIGNALS, *HEAD_SIGNALS} and told == sorted(told) and told[-1] == 1.0
    gap = {}
    for name, score in scores.items():
        assert score.shape == (8, 40)
        gap[name] = ((score * inside).sum(axis=0) - (score * ~inside).sum(axis=0)).mean() / 4
    assert min(gap.values()) > 0 and gap["decomposition"] > 2 * gap["loss"]


def _loss_of(model: BaseModel, cohort, members) -> torch.Tensor:
    bins = torch.from_numpy(bin_of(cohort.times, model.architecture.n_bins))
    hazards = torch.cat([model(cohort.bag(i)[None]) for i in members])
    return nll(hazards, bins[members], torch.tensor(cohort.events)[members]).mean()
