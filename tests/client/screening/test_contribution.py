"""What a source does, against merges put together tensor by tensor; and what too few patients cannot tell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, m0_of, make_cohort, make_recipe, make_vectors, memory_workspace, plain_c, state_of

from fedsteph.client.evaluation.inner_folds import inner_folds
from fedsteph.client.screening.contribution import contributions
from fedsteph.client.screening.screen import admitted, screen
from fedsteph.client.screening.verdict import Change
from fedsteph.client.training.cox import cox_loss, log_odds
from fedsteph.common.vector.task_vector import TaskVector

RECIPE = make_recipe("training.epochs=4", "training.lr=0.02")


@pytest.fixture(scope="module")
def inner(tmp_path_factory):
    cohort = make_cohort([3] * 40, seed=4)
    return inner_folds(memory_workspace(cohort, RECIPE, tmp_path_factory.mktemp("inner")), 0)


def plain_scores(
    inner, weights: dict[str, float], vectors: dict[str, TaskVector], own: float = 0.75, heads: bool = False
):
    """Mean C over inner folds and loss per event of ``M0 + own tau_t + sum_k weights_k tau_k``, written out.

    The loss is that of the risks at the scale where it is least.
    """
    start, scores, events = state_of(m0_of(RECIPE)), [], 0
    scales = [*(1.25**-k for k in range(20)), 0.0]
    totals = dict.fromkeys(scales, 0.0)
    for part in inner:
        model, local = m0_of(RECIPE), state_of(part.local)
        state = dict(local)
        for name in vectors["s000"].tensors:
            state[name] = start[name] + own * (local[name] - start[name])
            for key, weight in weights.items():
                state[name] = state[name] + weight * vectors[key].tensors[name]
        if heads:  # its mean over bins is that of the merged heads; each bin's distance from the mean stays
            learned, begun = local["head.weight"].mean(dim=0), start["head.weight"].mean(dim=0)
            merged = [weight * vectors[key].head for key, weight in weights.items() if vectors[key].has_head]
            state["head.weight"] = local["head.weight"] - learned + begun + own * (learned - begun) + sum(merged)
        model.load_state_dict(state)
        model.eval()
        cohort = part.validation
        with torch.no_grad():
            hazards = torch.cat([model(cohort.bag(i).unsqueeze(0)) for i in range(len(cohort))]).double()
        risk = -torch.cumprod(1 - hazards, dim=1).sum(dim=1).numpy()
        scores.append(plain_c(cohort.times, cohort.events, risk))
        t, e = (torch.from_numpy(values.copy()) for values in (cohort.times, cohort.events))
        for scale in scales:
            totals[scale] += float(cox_loss(scale * log_odds(hazards), t, e)) * int(e.sum())
        events += int(e.sum())
    return np.mean(scores), min(totals.values()) / events


def test_both_changes_against_merges_written_out(inner):
    vectors = make_vectors(RECIPE, 3)
    found = contributions(inner, vectors, RECIPE, CPU)
    assert list(found) == list(vectors)
    everyone = dict.fromkeys(vectors, 1 / 3)
    for name, one in found.items():
        without = {key: weight for key, weight in everyone.items() if key != name}
        for change, after, before in ((one.alone, {name: 1.0}, {}), (one.within, everyone, without)):
            (c, loss), (c_0, loss_0) = (plain_scores(inner, weights, vectors) for weights in (after, before))
            assert change.c_index == pytest.approx(c - c_0, abs=1e-6)
            assert change.loss == pytest.approx(loss - loss_0, abs=1e-5) and change.c_index_error > 0
            assert change.loss_error >= 0


def test_heads_are_merged_as_the_vectors_are_under_the_target_s_own_deviations(inner):
    noise = torch.Generator().manual_seed(0)
    heads = {f"s{k:03d}": torch.randn(RECIPE.model.embed, generator=noise) for k in range(2)}
    vectors = make_vectors(RECIPE, 3)
    vectors |= {name: replace(vectors[name], head=head) for name, head in heads.items()}
    found = contributions(inner, vectors, RECIPE, CPU)
    for name in vectors:
        (c, loss), (c_0, loss_0) = (plain_scores(inner, w, vectors, heads=True) for w in ({name: 1.0}, {}))
        assert found[name].alone.c_index == pytest.approx(c - c_0, abs=1e-6)
        assert found[name].alone.loss == pytest.approx(loss - loss_0, abs=1e-5)
    assert found["s000"].alone != contributions(inner, make_vectors(RECIPE, 3), RECIPE, CPU)["s000"].alone


def test_sources_that_agree_with_the_target_are_no_harm_however_wide_the_risks_get(inner):
    """Hospitals of one cancer: the sum has the target's order, and several times its spread."""
    m0 = m0_of(RECIPE)
    learned = [part.local.risk_direction() - m0.risk_direction() for part in inner]
    nothing = {name: 0.0 * vector for name, vector in make_vectors(RECIPE, 4).items()}
    alike = {name: replace(vector, head=8.0 * sum(learned) / len(learned)) for name, vector in nothing.items()}
    for one in contributions(inner, alike, RECIPE, CPU).values():
        assert one.alone.harm < 2 and one.within.harm < 2
    turned = {name: replace(vector, head=-2.0 * vector.head) for name, vector in alike.items()}
    assert max(one.alone.harm for one in contributions(inner, turned, RECIPE, CPU).values()) > 3


def test_a_vector_of_nothing_changes_nothing(inner):
    vectors = make_vectors(RECIPE, 2)
    vectors["s000"] = 0.0 * vectors["s000"]
    nothing = contributions(inner, vectors, RECIPE, CPU)["s000"]
    assert nothing.alone == nothing.within == Change(0.0, 0.0, 0.0, 0.0) and nothing.alone.harm == 0.0


def test_harm_is_the_worse_of_two_in_standard_errors():
    assert Change(-0.02, 0.01, 0.1, 0.02).harm == pytest.approx(5)
    assert Change(-0.09, 0.01, -0.1, 0.02).harm == pytest.approx(9)
    assert Change(0.09, 0.01, -0.1, 0.02).harm == pytest.approx(-5)
    assert Change(math.nan, 0.01, -0.1, 0.02).harm == math.inf


def test_too_few_pairs_tell_nothing_and_say_so(tmp_path):
    cohort = make_cohort([3] * 40, seed=4, events=[1] + [0] * 39)
    few = inner_folds(memory_workspace(cohort, RECIPE, tmp_path), 0)
    vectors = make_vectors(RECIPE, 2)
    assert contributions(few, vectors, RECIPE, CPU) == {} and contributions([], vectors, RECIPE, CPU) == {}
    found = screen(few, vectors, [vectors["s001"] * -1.0], RECIPE, mode="refuse", device=CPU)
    assert list(admitted(vectors, found)) == list(vectors)
    for verdict in found.values():
        assert "too few patients" in verdict.reason and (verdict.suspicious, verdict.figures.alone) == (False, None)


def test_what_is_far_too_long_is_not_judged_and_spoils_no_other_verdict(inner):
    vectors = make_vectors(RECIPE, 4)
    honest = screen(inner, vectors, [vectors["s000"] * -1.0], RECIPE, mode="refuse", device=CPU)
    longer = {**vectors, "huge": 50.0 * make_vectors(RECIPE, 5)["s004"]}
    found = screen(inner, longer, [vectors["s000"] * -1.0], RECIPE, mode="refuse", device=CPU)
    assert found["huge"].figures.alone is None and "huge" not in admitted(longer, found)
    for name in vectors:
        assert found[name].figures.alone == honest[name].figures.alone
        assert found[name].figures.within == honest[name].figures.within


def test_down_weight_lengthens_no_short_vector():
    vectors = make_vectors(RECIPE, 3)
    own = vectors.pop("s000")
    found = screen([], {**vectors, "copy": 0.5 * own}, [own], RECIPE, mode="down-weight", device=CPU)
    assert {name: one.weight for name, one in found.items()} == {"s001": 1.0, "s002": 1.0, "copy": 0.25}
