"""Norms and cosines by hand, and each bound on both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from client_builders import make_recipe, make_vectors
from each_case import each

from fedsteph.client.screening.likeness import COPY, TWIN, copy_bound, figures_of, problem_of
from fedsteph.common.vector.task_vector import TaskVector


@pytest.fixture(scope="module")
def vectors() -> dict[str, TaskVector]:
    return make_vectors(make_recipe(), 5)


def of(like: TaskVector, *numbers: float) -> TaskVector:
    row = torch.zeros_like(like.flat())
    row[: len(numbers)] = torch.tensor(numbers)
    return TaskVector.of_flat(row, like)


def test_the_figures_by_hand(vectors):
    like = vectors["s000"]
    sources = {"a": of(like, 3, 4), "b": of(like, 0, 0, 2), "c": of(like, 6, 8)}
    own = [of(like, 0, 1), of(like, 1, 0)]
    found = figures_of(sources, own)
    assert [one.norm for one in found.values()] == pytest.approx([5, 2, 10])
    # The median of the others' and the target's own: of (2, 10, 1), (5, 10, 1), (5, 2, 1).
    assert [one.norm_ratio for one in found.values()] == pytest.approx([2.5, 0.4, 5])
    assert [one.own_cosine for one in found.values()] == pytest.approx([0.8, 0, 0.8])
    assert (found["a"].twin, found["c"].twin) == ("c", "a") and found["a"].twin_cosine == pytest.approx(1)
    assert "its norm is 5.0 times the median" in problem_of("c", found, COPY)
    assert problem_of("a", found, COPY) is None, "of two copies the shorter one stays"
    assert problem_of("b", found, COPY) is None


def test_a_single_source_has_no_twin_and_is_held_against_the_target(vectors):
    one = vectors["s000"]
    shorter = figures_of({"s": 2.99 * vectors["s001"]}, [vectors["s001"] * -1.0])
    assert problem_of("s", shorter, COPY) is None
    found = figures_of({"s": 3.2 * one}, [vectors["s001"]])
    assert found["s"].twin is None and "times the median" in problem_of("s", found, COPY)


@each(("aside", "is_copy"), [(0.0, True), (0.45, True), (0.52, False)])
def test_a_copy_of_any_of_the_target_s_vectors_is_found_through_some_noise(vectors, aside, is_copy):
    """Of cosine 1 / sqrt(1 + aside^2): 0.912 and 0.887 beside the bound of 0.9."""
    like = vectors["s000"]
    own = [of(like, 0, 0, 1), of(like, 1, 0)]
    found = figures_of({"thief": of(like, 1, aside), "other": of(like, 0, 0, 0, 1)}, own)
    assert (found["thief"].own_cosine > COPY) == is_copy and (problem_of("thief", found, COPY) is not None) == is_copy


def test_only_the_same_numbers_make_twins(vectors):
    like = vectors["s000"]
    for aside, is_twin in ((0.1, True), (0.2, False)):
        found = figures_of({"a": of(like, 1), "b": of(like, 1, aside)}, [of(like, 0, 0, 1)])
        assert (found["b"].twin_cosine > TWIN) == is_twin
        assert [name for name in found if problem_of(name, found, COPY)] == (["b"] if is_twin else [])


def test_zero_vectors_do_not_divide_by_zero(vectors):
    zero = 0.0 * vectors["s000"]
    found = figures_of({"a": zero, "b": zero}, [zero])
    assert [problem_of(name, found, COPY) for name in found] == [None, None]


def test_where_the_target_s_own_models_are_alike_only_the_same_numbers_are_a_copy(vectors):
    """By hand: relatives of cosine 1 / sqrt(1 + 0.1^2) = 0.99504 put the bound at 0.99752, unlike ones at 0.9."""
    like = vectors["s000"]
    own, near, far = of(like, 1), of(like, 1, 0.1), of(like, 1, 1)
    assert copy_bound(own, [far, near]) == pytest.approx((1 + 1 / 1.01**0.5) / 2, abs=1e-6)
    assert copy_bound(own, [far]) == copy_bound(own, []) == COPY
    found = figures_of({"copy": 3.0 * own, "fellow": of(like, 1, 0.09)}, [own, of(like, 2)])
    bound = copy_bound(own, [near])
    assert problem_of("fellow", found, bound) is None
    assert "the bound 0.998" in problem_of("copy", {**found, "copy": replace(found["copy"], norm_ratio=1.0)}, bound)


def test_a_head_of_wild_norm_is_found_beside_its_short_share_of_the_whole(vectors):
    """By hand: heads of norm 1, 2 and 10 beside the target's 2; the encoders are long and alike in length."""
    like = vectors["s000"]

    def with_head(at: int, length: float) -> TaskVector:
        encoder = of(like, *[0.0] * at, 100.0)
        return replace(encoder, head=length * torch.eye(like.architecture.embed)[0])

    sources = {"a": with_head(0, 1), "b": with_head(1, 2), "wild": with_head(2, 10), "none": of(like, 0, 0, 0, 100)}
    own, relatives = [of(like, 0, 0, 0, 0, 100)], [with_head(5, 1), with_head(5, 2), with_head(5, 3)]
    found = figures_of(sources, own, relatives)
    ratios = {"a": 0.5, "b": 1.0, "wild": 5.0}  # of the medians of (2, 10, 2), (1, 10, 2), (1, 2, 2)
    assert {name: one.head_ratio for name, one in found.items() if one.head_ratio is not None} == pytest.approx(ratios)
    assert max(one.norm_ratio for one in found.values()) < 1.01
    problems = {name: problem_of(name, found, COPY) for name in sources}
    assert "the norm of its head is 5.0 times the median" in problems.pop("wild") and not any(problems.values())
    alone = figures_of({"wild": sources["wild"]}, own, relatives)
    assert alone["wild"].head_ratio == pytest.approx(5.0), "a single source is held against the target"


def test_a_copy_under_another_head_is_a_copy(vectors):
    like = vectors["s000"]
    turned = replace(like, head=torch.ones(like.architecture.embed))
    found = figures_of({"thief": turned, "other": vectors["s001"]}, [like])
    assert "a copy of the target's own vector" in problem_of("thief", found, COPY)
