"""Inner cross-validation: nobody is judged by a model that has seen them, and what it chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from client_builders import (
    CPU,
    Spy,
    StoppedError,
    equal,
    make_cohort,
    make_recipe,
    make_vectors,
    memory_workspace,
    plain_c,
    state_of,
)
from each_case import each

import fedsteph.client.evaluation.inner_folds
import fedsteph.client.evaluation.select
from fedsteph.client.evaluation.decision import InnerScore, Selection
from fedsteph.client.evaluation.inner_folds import inner_folds
from fedsteph.client.evaluation.select import _choose, gammas, select, trainings
from fedsteph.client.training.batch import risks
from fedsteph.common.config.recipe import Recipe, StephConfig
from fedsteph.common.host.checked_file import read_json

GRID = "steph.gamma_grid=[0.0,0.05]"


def selected(cohort, recipe, folder, n_sources: int = 2, fold: int = 0, **options) -> Selection:
    inner = inner_folds(memory_workspace(cohort, recipe, folder), fold)
    sources = list(make_vectors(recipe, n_sources).values())
    return select(inner, sources, recipe, device=CPU, folder=folder / "inner", **options)


def spies_on_trainings(monkeypatch) -> tuple[Spy, Spy]:
    return Spy(monkeypatch, fedsteph.client.models.local_file, "train_local"), Spy(
        monkeypatch, fedsteph.client.evaluation.select, "fit_steph"
    )


def ids(cohort) -> set[str]:
    return {patient.id for patient in cohort.patients}


@pytest.mark.parametrize(("n_inner", "grid"), [(2, [0.0, 0.05]), (3, [0.01])])
def test_nobody_is_judged_by_a_model_that_has_seen_them(monkeypatch, tmp_path, n_inner, grid):
    recipe = make_recipe(f"steph.inner_folds={n_inner}", f"steph.gamma_grid={grid}")
    everybody = make_cohort([3] * 24)
    cohort = everybody.subset([patient.id for patient in everybody.patients[:18]])
    spies = (*spies_on_trainings(monkeypatch), Spy(monkeypatch, fedsteph.client.evaluation.select, "_score"))
    selected(cohort, recipe, tmp_path)
    locals_, stephs, scores = (spy.calls for spy in spies)
    assert (len(locals_), len(stephs)) == (n_inner, trainings(recipe)) == (n_inner, n_inner * len(grid))
    assert len(scores) == len(locals_) + len(stephs)
    judged = []
    for fold, local in enumerate(locals_):
        own = stephs[fold * len(grid) : (fold + 1) * len(grid)]
        of_fold = [scores[fold], *scores[n_inner + fold * len(grid) : n_inner + (fold + 1) * len(grid)]]
        tests = [call.args[1].validation for call in of_fold]
        assert len({frozenset(ids(part)) for part in tests}) == 1
        validation = ids(tests[0])
        judged += sorted(validation)
        for training in [local, *own]:
            assert ids(training.args[0]) == ids(cohort) - validation
        for steph in own:
            assert equal(state_of(steph.args[1]), state_of(local.result)), "it merges another fold's local model"
        assert [steph.kwargs["gamma"] for steph in own] == grid
    assert sorted(judged) == sorted(ids(cohort))


def test_scores_equal_a_plain_reference(monkeypatch, tmp_path):
    """Pooled: concordant over comparable pairs, both summed over the inner folds."""
    recipe, cohort = make_recipe("steph.inner_folds=3", "steph.gamma=0.01"), make_cohort([4] * 25)
    locals_, stephs = spies_on_trainings(monkeypatch)
    found = selected(cohort, recipe, tmp_path)
    for value, spy in ((found.local, locals_), (found.steph, stephs)):
        concordant = comparable = 0.0
        for call in spy.calls:
            validation = cohort.subset(sorted(ids(cohort) - ids(call.args[0])))
            t, e = validation.times, validation.events
            n = sum(e[i] and (t[i] < t[j] or (t[i] == t[j] and not e[j])) for i in range(len(t)) for j in range(len(t)))
            concordant += plain_c(t, e, risks(call.result, validation, CPU)) * n
            comparable += n
        assert value == pytest.approx(concordant / comparable, abs=1e-9) and found.n_comparable == comparable


def scores(local=((0, 0),), **by_gamma) -> dict[str, InnerScore]:
    named = {"local": local, **{key.removeprefix("g").replace("_", "."): value for key, value in by_gamma.items()}}
    return {
        f"{j}/{name}": InnerScore(*score[:2], 0.0, *score[2:])
        for name, folds in named.items()
        for j, score in enumerate(folds)
    }


@each(
    ("found", "gamma"),
    [
        ({"g0_0": [(5, 10)], "g0_005": [(7, 10)], "g0_05": [(6, 10)]}, 0.005),
        # The mean over folds would choose 0.05 (0.95 against 0.6), the pooled pairs choose 0.0.
        ({"g0_0": [(1, 10), (80, 90)], "g0_05": [(10, 10), (9, 90)], "g0_005": [(0, 10), (0, 90)]}, 0.0),
        ({"g0_0": [(5, 10)], "g0_005": [(7, 10)], "g0_05": [(7, 10)]}, 0.005),
        ({"g0_0": [(7, 10)], "g0_005": [(7, 10)], "g0_05": [(7, 10)]}, 0.0),
        ({"g0_0": [(0, 10)], "g0_005": [(0, 10)], "g0_05": [(1, 10)]}, 0.05),
    ],
)
def test_the_best_pooled_c_is_chosen_and_ties_go_to_the_smallest(found, gamma):
    recipe = make_recipe("steph.gamma_grid=[0.05,0.0,0.005]")
    local = [(3, 4), (1, 4)][: len(found["g0_0"])]
    selection = _choose(scores(local, **found), recipe)
    assert selection.gamma == gamma and selection.local == sum(c for c, _ in local) / sum(n for _, n in local)
    assert selection.gamma_reason == "best of 3 in 2-fold inner cross-validation"


def test_steph_is_judged_under_the_gamma_that_the_other_folds_choose():
    """Fold 0 alone would choose 0.05, folds 1 and 2 would choose 0: each is scored under the others' choice."""
    recipe = make_recipe(GRID)
    found = scores([(1, 10)] * 3, g0_0=[(2, 10), (9, 10), (9, 10)], g0_05=[(10, 10), (1, 10), (1, 10)])
    selection = _choose(found, recipe)
    assert selection.gamma == 0.0  # 20 of 30 against 12 of 30
    # Fold 0: the others choose 0 (18 against 2), so 2; folds 1 and 2: 11 against 11, a tie to 0, so 9 each.
    assert selection.steph == pytest.approx((2 + 9 + 9) / 30)
    tempting = scores([(1, 10)] * 2, g0_0=[(4, 10), (0, 10)], g0_05=[(0, 10), (4, 10)])
    assert _choose(tempting, recipe).steph == 0.0  # the best of all would have claimed 4 of 10 twice


def test_without_a_comparable_pair_the_smallest_is_taken_and_the_reason_says_so():
    recipe = make_recipe("steph.gamma_grid=[0.05,0.005]")
    for found in (scores(g0_05=[(0, 0)], g0_005=[(0, 0)]), {}):
        selection = _choose(found, recipe)
        assert (selection.gamma, selection.local, selection.steph, selection.n_comparable) == (0.005, None, None, 0)
        assert "no comparable pair" in selection.gamma_reason


def test_a_fixed_gamma_is_still_judged(tmp_path):
    recipe = make_recipe("steph.gamma=0.02", GRID)
    assert gammas(recipe) == (0.02,) and trainings(recipe) == 2
    selection = selected(make_cohort([3] * 20), recipe, tmp_path)
    assert (selection.gamma, selection.gamma_reason) == (0.02, "fixed in the configuration")
    assert 0 <= selection.steph <= 1 and 0 <= selection.local <= 1


@pytest.mark.parametrize(("n", "events"), [(2, [1, 1]), (1, [1]), (12, [0] * 12)])
def test_too_few_patients_or_events_to_choose(tmp_path, n, events):
    selection = selected(make_cohort([3] * n, events=events), make_recipe("steph.inner_folds=3", GRID), tmp_path)
    assert (selection.gamma, selection.steph, selection.local) == (0.0, None, None)
    assert "no comparable pair" in selection.gamma_reason


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_selection_goes_on_where_it_was_stopped(monkeypatch, tmp_path, stop_after):
    recipe, cohort = make_recipe(GRID, "training.epochs=1"), make_cohort([3] * 20)
    whole = selected(cohort, recipe, tmp_path / "whole")

    def stop(done: float, total: float) -> None:
        if done > stop_after:
            raise StoppedError

    with pytest.raises(StoppedError):
        selected(cohort, recipe, tmp_path / "cut", progress=stop)
    spies = spies_on_trainings(monkeypatch)
    assert selected(cohort, recipe, tmp_path / "cut") == whole
    assert [len(spy.calls) for spy in spies] == [0, 4 - stop_after]
    for spy in spies:
        spy.calls.clear()
    assert selected(cohort, recipe, tmp_path / "cut") == whole and [spy.calls for spy in spies] == [[], []]


def test_progress_never_goes_back_and_ends_at_the_number_of_trainings(tmp_path):
    seen, recipe = [], make_recipe(GRID)
    selected(make_cohort([3] * 20), recipe, tmp_path, progress=lambda *done: seen.append(done))
    assert seen == sorted(seen) and seen[-1] == (4, trainings(recipe)) == (4, 4)


def test_inner_folds_follow_the_fold_and_the_seed(monkeypatch, tmp_path):
    cohort, found = make_cohort([3] * 20), []
    for i, (fold, seed) in enumerate([(0, 0), (0, 0), (1, 0), (0, 1)]):
        spy = Spy(monkeypatch, fedsteph.client.evaluation.inner_folds, "make_splits")
        recipe = make_recipe(GRID, f"training.seed={seed}", "training.epochs=1")
        selected(cohort, recipe, tmp_path / str(i), fold=fold)
        found.append(spy.calls[0].result)
    assert found[0] == found[1] != found[2] and found[0] != found[3]


def test_a_gamma_that_collapsed_in_an_inner_fold_is_left_out_unless_all_did():
    recipe = Recipe(steph=StephConfig(gamma_grid=(0.0, 0.05)))
    found = scores([(1, 4)], **{"0.0": [(2, 4)], "0.05": [(4, 4)]})
    assert _choose(found, recipe).gamma == 0.05
    found["0/0.05"] = replace(found["0/0.05"], collapsed=True)
    selection = _choose(found, recipe)
    assert selection.gamma == 0.0 and selection.gamma_reason.endswith("1 left out as collapsed there")
    found["0/0.0"] = replace(found["0/0.0"], collapsed=True)
    assert _choose(found, recipe).gamma == 0.05


def test_a_real_collapse_is_noticed_and_left_out(tmp_path):
    """gamma = 100 drives every w to 0 within the recipe's epochs."""
    recipe = make_recipe("steph.gamma_grid=[0.0,100.0]", "training.epochs=1", "steph.epochs=12", "training.lr=0.05")
    selection = selected(make_cohort([3] * 20), recipe, tmp_path)
    kept = {path.stem: read_json(path)["collapsed"] for path in (tmp_path / "inner").iterdir()}
    assert kept == {"0_100.0": True, "1_100.0": True, "0_0.0": False, "1_0.0": False} and selection.gamma == 0.0
    assert selection.gamma_reason.endswith(", 1 left out as collapsed there")
