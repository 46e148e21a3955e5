"""Representation surgery: the correction, its distance from the local model, and what trains it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from client_builders import SMALL, m0_of, make_cohort, make_recipe
from method_builders import all_bags, make_task, numbers, plain_encode, plain_logsumexp

from fedsteph.client.methods.merged import METHODS
from fedsteph.client.methods.surgery import Surgery
from fedsteph.common.host.progress import silent
from fedsteph.common.model.initial_model import untrained_model

QUICK = ("training.lr=0.02", "training.epochs=2", "model.n_bins=4")


def plain_surgery(surgery: Surgery, z: np.ndarray) -> np.ndarray:
    down, up = (layer.weight.detach().double().numpy() for layer in (surgery.down, surgery.up))
    return z - up @ np.maximum(down @ z, 0.0)


def of_rank(rank: int) -> tuple[Surgery, dict[str, np.ndarray]]:
    local = untrained_model(SMALL, 5)
    torch.manual_seed(0)
    return Surgery(local, rank), numbers(local.encoder_state())


def test_the_correction_by_hand():
    surgery, _ = of_rank(3)
    z = np.random.default_rng(0).normal(size=(6, SMALL.embed))
    found = surgery(torch.from_numpy(z).float()).detach().numpy()
    np.testing.assert_allclose(found, [plain_surgery(surgery, row) for row in z], atol=1e-6)
    assert {name: tuple(p.shape) for name, p in surgery.named_parameters()} == {
        "down.weight": (3, SMALL.embed),
        "up.weight": (SMALL.embed, 3),
    }


def test_the_distance_is_the_mean_l1_distance_from_the_local_model_s_slide_vectors():
    surgery, local = of_rank(3)
    cohort = make_cohort([4, 2, 7, 5, 1], width=SMALL.width)
    bags = {patient.id: cohort.bag(i).numpy() for i, patient in enumerate(cohort.patients)}
    generator = torch.Generator().manual_seed(1)
    batches = all_bags(cohort, SMALL.n_bins)
    for batch in [*batches, *batches]:  # the second time from memory
        z = torch.randn(len(batch.ids), SMALL.embed, generator=generator)
        expected = [
            np.abs(plain_surgery(surgery, row) - plain_encode(local, bags[key])).mean()
            for key, row in zip(batch.ids, z.double().numpy(), strict=True)
        ]
        np.testing.assert_allclose(surgery.distance(z, batch).detach().numpy(), expected, rtol=1e-5)


def test_what_is_remembered_belongs_to_the_patient_and_not_to_the_place_in_the_batch():
    surgery, local = of_rank(2)
    cohort = make_cohort([3, 3, 3, 3], width=SMALL.width)
    (whole,) = all_bags(cohort, SMALL.n_bins)
    z = torch.zeros(4, SMALL.embed)
    expected = [np.abs(plain_encode(local, bag)).mean() for bag in whole.bags.numpy()]
    part = replace(whole, bags=whole.bags[:2], ids=whole.ids[:2])
    np.testing.assert_allclose(surgery.distance(z[:2], part).detach().numpy(), expected[:2], rtol=1e-5)
    turned = replace(whole, bags=whole.bags.flip(0), ids=whole.ids[::-1])
    np.testing.assert_allclose(surgery.distance(z, turned).detach().numpy(), expected[::-1], rtol=1e-5)


def test_its_gradient_reaches_the_adapter_and_the_merged_vector_but_not_the_local_model():
    local = untrained_model(SMALL, 5)
    surgery = Surgery(local, 4)
    (batch,) = all_bags(make_cohort([3, 3], width=SMALL.width), SMALL.n_bins)
    z = torch.rand(2, SMALL.embed, requires_grad=True)
    surgery.distance(z, batch).sum().backward()
    assert z.grad.any() and surgery.up.weight.grad.any() and surgery.down.weight.grad.any()
    assert all(parameter.grad is None for parameter in local.parameters())


def test_the_merged_model_s_loss_and_hazards_go_through_it(tmp_path):
    """Penalty ``gamma logsumexp(w)^2 + |z' - z_local|``, hazards from z', in a trained model."""
    task = make_task(tmp_path, *QUICK, "comparators.gamma=0.2", "comparators.surgery_rank=5")
    model = METHODS["surgery"](task, silent).model
    assert model.surgery.down.out_features == 5
    local = numbers(task.local.encoder_state())
    by_id = {patient.id: task.train.bag(i).numpy() for i, patient in enumerate(task.train.patients)}
    w = model.w.detach().double().numpy()
    theta = numbers(m0_of(task.recipe).encoder_state())
    for k, source in enumerate(task.sources):
        theta = {name: tensor + w[k] * source.tensors[name].double().numpy() for name, tensor in theta.items()}
    W, b = model.head.weight.detach().double().numpy(), model.head.bias.detach().double().numpy()
    for batch in all_bags(task.train, 4):
        outputs = model.outputs(batch, 0.2)
        corrected = [plain_surgery(model.surgery, plain_encode(theta, by_id[key])) for key in batch.ids]
        apart = [
            np.abs(z - plain_encode(local, by_id[key])).mean() for key, z in zip(batch.ids, corrected, strict=True)
        ]
        hazards = [1 / (1 + np.exp(-(W @ z + b))) for z in corrected]
        penalty = [0.2 * plain_logsumexp(w) ** 2 + distance for distance in apart]
        np.testing.assert_allclose(outputs.penalty.detach().numpy(), penalty, rtol=1e-4)
        np.testing.assert_allclose(outputs.hazards.detach().numpy(), hazards, atol=1e-5)
        np.testing.assert_allclose(model(batch.bags, batch.mask).detach().numpy(), hazards, atol=1e-5)


def test_training_brings_the_corrected_vectors_nearer_to_the_local_model_s(tmp_path):
    """Than those of the same merge without an adapter."""
    task = make_task(tmp_path, "training.epochs=20", "training.lr=0.04", "comparators.gamma=0", n_sources=2)
    local, apart = numbers(task.local.encoder_state()), {}
    for name in ("adamerging", "surgery"):
        model, distances = METHODS[name](task, silent).model, []
        for i in range(len(task.train)):
            bag = task.train.bag(i)[None]
            with torch.no_grad():
                z = model.represent(bag, None, model.weights(bag, None))
                z = z if model.surgery is None else model.surgery(z)
            distances.append(np.abs(z[0].double().numpy() - plain_encode(local, bag[0].numpy())).mean())
        apart[name] = np.mean(distances)
    assert apart["surgery"] < 0.6 * apart["adamerging"], apart


def test_the_local_model_is_left_as_it_is(tmp_path):
    task = make_task(tmp_path, *QUICK)
    before = numbers(task.local.state_dict())
    METHODS["surgery_hyper"](task, silent)
    after = numbers(task.local.state_dict())
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert make_recipe().comparators.surgery_rank == 16
