"""Slides that are unlike the training slides: measured by hand, told of once, and never one of the training slides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from client_builders import make_cohort

from fedsteph.client.models.slide_features import UNLIKE, SlideFeatures, mean_of, of_means


def test_a_distance_by_hand():
    found = of_means(np.array([[0.0, 0.0], [2.0, 4.0], [1.0, 2.0]]))
    spread = np.sqrt(2 / 3) * np.array([1, 2])
    np.testing.assert_allclose(found.mean, [1, 2])
    np.testing.assert_allclose(found.spread, spread)
    largest = np.mean([1, 2] / spread)
    np.testing.assert_allclose(found.distances[[0, 100]], [0, largest], atol=1e-12)
    bag = torch.tensor([[3.0, 0.0], [7.0, 4.0]])  # mean 5, 2
    assert found.unlike(bag) == pytest.approx((4 / spread[0] + 0) / 2 / largest)


def test_training_slides_and_slides_like_them_are_not_told_of_but_other_scanners_and_encoders_are():
    rng = np.random.default_rng(0)
    tilt = rng.normal(size=(64, 64))

    def slides(n: int) -> list[torch.Tensor]:  # a slide has a look of its own
        looks = rng.normal(size=(n, 64)) @ tilt + 5 * rng.normal(size=64)[:1]
        return [torch.from_numpy((look + 3 * rng.normal(size=(30, 64))).astype(np.float32)) for look in looks]

    train = slides(60)
    found = of_means(np.array([mean_of(slide) for slide in train]))
    assert max(found.unlike(slide) for slide in train) == pytest.approx(1)
    new = slides(60)
    assert max(found.unlike(slide) for slide in new) < UNLIKE
    offset = 3 * torch.from_numpy(found.spread * np.sign(rng.normal(size=64))).float()
    assert min(found.unlike(slide + offset) for slide in new) > UNLIKE  # another scanner
    assert min(found.unlike(3 * slide.flip(1) + 40) for slide in new) > UNLIKE  # another encoder


def test_what_a_cohort_of_one_look_has():
    cohort = make_cohort([3, 4, 5])
    whole = SlideFeatures.of(cohort)
    expected = np.array([cohort.bag(i).double().mean(dim=0).numpy() for i in range(3)])
    np.testing.assert_allclose(whole.mean, expected.mean(axis=0))
    assert of_means(expected[:1]) is None and of_means(np.ones((4, 3))) is None
    one = of_means(np.array([[0.0, 1.0], [0.0, 3.0]]))  # a dimension without any spread counts, but is bounded
    assert (one.spread > 0).all() and np.isfinite(one.unlike(torch.ones(2, 2)))


@pytest.mark.parametrize(
    ("spread", "distances"), [([1, 0], [0, 1]), ([1, -1], [0, 1]), ([1, 1], [1, 0]), ([1, 1], [0, 0])]
)
def test_numbers_that_cannot_be_a_cohorts(spread, distances):
    with pytest.raises(ValueError, match="spread"):
        SlideFeatures(np.zeros(2), np.array(spread, float), np.array(distances, float))
