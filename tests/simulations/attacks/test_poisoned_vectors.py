"""The attacks are what they are called: norms, directions, and a trigger that does what it is meant to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsteph.client.training.batch import risks
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.attacks import vectors
from fedsteph.simulations.attacks.backdoor import rise, train_backdoor, trigger_of, triggered
from fedsteph.simulations.attacks.suite import ATTACKS, Knowledge

CPU = torch.device("cpu")


def cosine(a: TaskVector, b: TaskVector) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flat().double(), b.flat().double(), dim=0))


@pytest.fixture(scope="module")
def known(federation) -> Knowledge:
    honest = federation.honest
    return Knowledge(honest, ("ash", "elm"), honest["fir"], lambda name: honest[name])


def test_norms_and_directions(federation):
    honest = federation.honest["ash"]
    random = vectors.random_direction(honest, 3)
    assert random.norm == pytest.approx(honest.norm, rel=1e-5)
    assert abs(cosine(random, honest)) < 0.4
    assert not torch.equal(random.flat(), vectors.random_direction(honest, 4).flat())
    assert vectors.noise(honest, 3).norm == pytest.approx(10 * honest.norm, rel=1e-5)
    assert vectors.boosted(honest).norm == pytest.approx(10 * honest.norm, rel=1e-6)
    assert cosine(vectors.sign_flip(honest), honest) == pytest.approx(-1, abs=1e-6)
    assert cosine(vectors.without(random, honest), honest) == pytest.approx(0, abs=1e-5)
    for wanted in (-0.5, 0.0, 0.9):
        partly = vectors.flipped_in_part(honest, wanted, 5)
        assert cosine(partly, honest) == pytest.approx(wanted, abs=1e-4)
        assert partly.norm == pytest.approx(honest.norm, rel=1e-4)


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_only_the_malicious_send_other_vectors_than_they_learned(known, attack):
    sent = ATTACKS[attack].sent(known)
    assert list(sent) == list(known.honest)
    for name, vector in sent.items():
        assert torch.isfinite(vector.flat()).all()
        if name not in known.malicious:
            assert torch.equal(vector.flat(), known.honest[name].flat())
    if attack.startswith("adaptive"):
        median = float(np.median([vector.norm for vector in known.honest.values()]))
        assert 2.8 * median < sent["ash"].norm < 3.0 * median


def test_a_backdoored_model_raises_the_risk_of_whoever_has_the_trigger(federation):
    source = federation.sources["ash"]
    train, test, recipe = source.train_part(0), source.test_part(0), source.recipe
    trigger = trigger_of(train, seed=1)
    model = train_backdoor(train, trigger, recipe, label="ash", device=CPU)
    assert rise(model, test, trigger, CPU) > 0.3
    honest = source.local_model(0)
    assert rise(honest, test, trigger, CPU) < 0.2


def test_the_rise_is_counted_in_places_among_the_clean_patients(federation):
    source = federation.sources["birch"]
    test, model = source.test_part(0), source.local_model(0)
    trigger = trigger_of(test, seed=2)
    clean = risks(model, test, CPU)
    marked = risks(model, triggered(test, trigger), CPU)
    places = [
        np.mean([(other < after) + 0.5 * (other == after) for other in clean])
        - np.mean([(other < before) + 0.5 * (other == before) for other in clean])
        for before, after in zip(clean, marked, strict=True)
    ]
    assert rise(model, test, trigger, CPU) == pytest.approx(np.mean(places), abs=1e-9)
