"""A study's units of work: every shared model once, in the right order, and the same split for every row."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from sites import make_site
from studies import RECIPE, write_study

from fedsteph.common.config.extraction import Extraction
from fedsteph.common.errors import ConfigError
from fedsteph.common.model.initial_model import m0_digest
from fedsteph.simulations.study.plan import Plan, Unit, make_plan, paid_for
from fedsteph.simulations.study.study_file import load_study
from fedsteph.simulations.study.work import Ground, Worker

SITES = ("alpha", "beta", "gamma", "delta")
FOLDS = 2


def plan_of(tmp_path: Path, targets=SITES, sites=SITES, cancers=None, **content) -> Plan:
    content = {"targets": None, "seeds": [0, 1], "against": None, "variants": None, "methods": ["local"]} | content
    study = load_study(write_study(tmp_path / "study.yaml", **content), tmp_path)
    return make_plan(study, dict.fromkeys(sites) | (cancers or {}), targets, 6, Extraction("test-encoder"))


def counts(plan: Plan) -> Counter:
    return Counter(unit.kind for stage in plan.stages for unit in stage)


def cells_of(plan: Plan, row: str) -> list:
    return [cell for cell in plan.cells if cell.row == row]


def test_counted_by_hand(tmp_path):
    """4 sites, all targets, 2 folds, 2 seeds: 16 combinations."""
    methods = ["local", "tuned_head", "half_average", "ties", "steph", "deployed", "fedavg", "pooled"]
    plan = plan_of(tmp_path, methods=methods)
    n = 4 * 2 * 2
    assert counts(plan) == {"base": n, "inner": n, "together": 2 * 2 * 2, "choice": n, "cell": 8 * n}
    assert plan.n_units == sum(counts(plan).values())
    assert len(plan.cells) == 8 * n
    assert len({(c.row, c.target, c.seed, c.fold) for c in plan.cells}) == len(plan.cells)


def test_of_a_source_only_its_first_fold_is_trained(tmp_path):
    plan = plan_of(tmp_path, ["beta"], methods=["local", "half_average"], seeds=[0])
    assert {(u.site, u.fold) for u in plan.stages[0]} == {("beta", 0), ("beta", 1)} | {(s, 0) for s in SITES}
    assert len(plan.stages[0]) == 5
    assert not plan.stages[1]


@pytest.mark.parametrize("method", ["best_source", "task_arithmetic", "steph", "steph_lam1", "steph_dense", "deployed"])
def test_what_chooses_has_its_inner_models_trained_before(tmp_path, method):
    plan = plan_of(tmp_path, ["beta"], methods=["local", method], seeds=[0])
    assert [(u.kind, u.site, u.fold) for u in plan.stages[1]] == [("inner", "beta", 0), ("inner", "beta", 1)]


def test_local_models_of_other_seeds_are_trained_once_and_before(tmp_path):
    methods = ["local", "local_ensemble", "local_average"]
    other = {"more": {"method": "local_average", "recipe": {"steph": {"K": 1}}}}
    plan = plan_of(tmp_path, ["beta"], methods=methods, seeds=[0], variants=other)
    assert [(u.kind, u.site, u.fold) for u in plan.stages[1]] == [("members", "beta", 0), ("members", "beta", 1)]
    paid = [unit.key for cell in cells_of(plan, "more") for unit in paid_for(cell.unit, SITES)]
    assert {unit.key for unit in plan.stages[1]} < {*paid}


def keys_of(plan: Plan, *kinds: str) -> set[str]:
    return {unit.key for stage in plan.stages for unit in stage if unit.kind in kinds}


def test_deployed_adds_no_training_beyond_the_panel_and_local(tmp_path):
    """The panel's weights and what is deployed are one choice."""
    with_it = plan_of(tmp_path, methods=["local", "panel", "deployed"])
    without = plan_of(tmp_path, methods=["local", "panel"])
    alone = plan_of(tmp_path, methods=["local", "deployed"])
    every = ("base", "inner", "together", "choice", "cell")
    assert keys_of(with_it, *every) == keys_of(without, *every) == keys_of(alone, *every)
    assert {unit.method for unit in with_it.stages[-1]} == {"local", "panel"}
    assert counts(with_it)["choice"] == 16 and not counts(plan_of(tmp_path, methods=["local", "steph"]))["choice"]
    for method in ("panel", "deployed"):
        (cell, *_) = cells_of(with_it, method)
        assert [(u.kind, u.method) for u in paid_for(cell.unit, SITES)] == [
            ("cell", "panel"),
            ("choice", "steph"),
            ("inner", ""),
        ]


def test_under_a_fixed_gamma_only_what_is_deployed_is_validated(tmp_path):
    recipe = RECIPE | {"steph": {"gamma": 0.05, "inner_folds": 2}}
    without = plan_of(tmp_path, methods=["local", "steph", "steph_lam1"], recipe=recipe)
    assert counts(without) == {"base": 16, "cell": 48}
    with_it = plan_of(tmp_path, methods=["local", "steph", "steph_lam1", "deployed"], recipe=recipe)
    assert counts(with_it) == {"base": 16, "inner": 16, "choice": 16, "cell": 64}


VARIANTS = {
    "nothing": ({}, {}),
    "of STEPH": ({"steph": {"K": 1}}, {"cell": 16}),
    "of a comparator": ({"comparators": {"gamma": 0.5}}, {"cell": 16}),
    "inner folds": ({"steph": {"inner_folds": 3}}, {"cell": 16, "inner": 16}),
    "repeats of them": ({"steph": {"inner_repeats": 2}}, {"cell": 16, "inner": 16}),
    "a panel's weights": ({"panel": {"local": 0.3}}, {"cell": 16}),
    "training": ({"training": {"lr": 0.5}}, {"cell": 16, "inner": 16, "base": 16}),
    "model": ({"model": {"embed": 5}}, {"cell": 16, "inner": 16, "base": 16}),
    "preset": ({"preset": "paper"}, {"cell": 16, "inner": 16, "base": 16}),
}


@pytest.mark.parametrize(("recipe", "more"), VARIANTS.values(), ids=VARIANTS.keys())
def test_rows_share_what_their_recipes_have_in_common(tmp_path, recipe, more):
    before = counts(plan_of(tmp_path, methods=["local", "steph"]))
    variants = {"v": {"method": "steph", "recipe": recipe}}
    after = counts(plan_of(tmp_path, methods=["local", "steph"], variants=variants))
    assert after - before == Counter(more)


def test_variants_of_one_preset_share_their_own_base_models(tmp_path):
    other = {"preset": "paper"}
    variants = {
        "local p": {"method": "local", "recipe": other},
        "steph p": {"method": "steph", "recipe": other},
        "deployed p": {"method": "deployed", "recipe": other},
    }
    plan = plan_of(tmp_path, methods=["local"], variants=variants)
    assert counts(plan) == {"base": 2 * 16, "inner": 16, "choice": 16, "cell": 4 * 16}


def test_every_unit_comes_after_what_it_needs(tmp_path):
    variants = {"v": {"method": "steph", "recipe": {"model": {"embed": 5}}, "sources": 2}}
    methods = ["local", "half_average", "steph", "deployed", "fedavg", "pooled"]
    plan = plan_of(tmp_path, methods=methods, variants=variants)
    assert [{u.kind for u in stage} for stage in plan.stages] == [{"base"}, {"inner", "together"}, {"choice"}, {"cell"}]
    last = plan.stages[-1]
    keys = [{unit.key for unit in stage} for stage in plan.stages]
    for unit in [*plan.stages[-2], *last]:
        own = [Unit("base", unit.recipe, unit.fold, unit.site)]
        assert {u.key for u in own + [Unit("base", unit.recipe, 0, s) for s in unit.sources]} <= keys[0]
        if unit.method == "steph":
            assert Unit("inner", unit.recipe, unit.fold, unit.site).key in keys[1]
        if unit.method in ("fedavg", "pooled"):
            assert Unit("together", unit.recipe, unit.fold, "", unit.method, tuple(sorted(SITES))).key in keys[1]


def test_units_that_differ_have_different_keys(tmp_path):
    variants = {
        "K": {"method": "steph", "recipe": {"steph": {"K": 1}}},
        "few": {"method": "steph", "sources": 1},
        "lr": {"method": "local", "recipe": {"training": {"lr": 0.5}}},
    }
    plan = plan_of(tmp_path, methods=["local", "steph", "half_average"], variants=variants)
    assert len({cell.unit.key for cell in plan.cells}) == len(plan.cells)
    again = plan_of(tmp_path, methods=["local", "steph", "half_average"], variants=variants)
    assert [cell.unit.key for cell in again.cells] == [cell.unit.key for cell in plan.cells]


def test_fewer_sources_are_nested_draws(tmp_path):
    sites = tuple(f"s{i}" for i in range(8))
    variants = {f"{k}": {"method": "half_average", "sources": k} for k in (1, 2, 5, 7)}
    variants["again"] = variants["2"]
    plan = plan_of(tmp_path, sites, sites, variants=variants, seeds=[0, 1, 2, 3])
    drawn = {(c.row, c.target, c.seed, c.fold): c.unit.sources for c in plan.cells}
    for target in sites:
        for seed in range(4):
            for fold in range(FOLDS):
                found = [drawn[str(k), target, seed, fold] for k in (1, 2, 5, 7)]
                assert [len(names) for names in found] == [1, 2, 5, 7]
                assert all({*small} <= {*large} for small, large in pairwise(found))
                assert target not in found[-1]
                assert all(list(names) == sorted(names) for names in found)
                assert found[1] == drawn["again", target, seed, fold]
                assert found[1] == drawn["2", target, seed, 0]
    with pytest.raises(ConfigError, match="asks for 8 sources, and there are 7"):
        plan_of(tmp_path, sites, sites, variants={"many": {"method": "half_average", "sources": 8}})
    # Neither the seed nor the target alone decides the draw.
    assert len({drawn["2", "s0", seed, 0] for seed in range(4)}) > 1
    others = {tuple(sorted({*sites} - {t}).index(s) for s in drawn["2", t, 0, 0]) for t in sites}
    assert len(others) > 1


def test_all_sources_are_the_other_sites_by_name_and_none_where_none_is_needed(tmp_path):
    plan = plan_of(tmp_path, ["beta"], methods=["local", "tuned_head", "steph"])
    found = {cell.row: cell.unit.sources for cell in plan.cells}
    assert found == {"local": (), "tuned_head": (), "steph": ("alpha", "delta", "gamma")}


def test_sources_of_the_target_s_own_cancer_or_of_others(tmp_path):
    """alpha and beta are of one cancer, gamma of another, delta's is not known."""
    cancers = {"alpha": "brca", "beta": "brca", "gamma": "luad"}
    variants = {
        "same": {"method": "steph", "among": "same_cancer"},
        "others": {"method": "half_average", "among": "other_cancers"},
        "one": {"method": "deployed", "among": "same_cancer", "sources": 1},
    }
    plan = plan_of(tmp_path, cancers=cancers, seeds=[0], methods=["local", "steph"], variants=variants)
    found = {(cell.row, cell.target): cell.unit for cell in plan.cells}
    wanted = {"alpha": (("beta",), ("gamma",)), "beta": (("alpha",), ("gamma",)), "gamma": ((), ("alpha", "beta"))}
    for target, (same, others) in wanted.items():
        assert found["same", target].sources == found["one", target].sources == same
        assert found["others", target].sources == others
    # Where none is left, the cell is that of the local model, and nothing is trained for it.
    for row, target in (("same", "gamma"), ("one", "gamma"), ("same", "delta"), ("others", "delta")):
        assert found[row, target] == found["local", target]
    assert found["steph", "delta"].sources == ("alpha", "beta", "gamma")
    with pytest.raises(ConfigError, match="asks for 2 sources, and there are 1 for alpha"):
        two = {"two": {"method": "steph", "among": "same_cancer", "sources": 2}}
        plan_of(tmp_path, cancers=cancers, seeds=[0], variants=two)


def test_a_seed_is_another_m0_and_another_training(tmp_path):
    recipe = RECIPE | {"model": RECIPE["model"] | {"m0_seed": 7}}
    plan = plan_of(tmp_path, methods=["local", "steph"], seeds=[0, 3], recipe=recipe)
    for seed in (0, 3):
        (model,) = {c.unit.recipe.model for c in plan.cells if c.seed == seed}
        assert (model.m0_seed, model.width, model.encoder) == (7 + seed, 6, "test-encoder")
        assert model.m0_sha256 == m0_digest(model)
        assert {c.unit.recipe.training.seed for c in plan.cells if c.seed == seed} == {seed}
    assert len({c.unit.recipe.model.m0_sha256 for c in plan.cells}) == 2


@pytest.mark.parametrize("folds_of_files", [0, FOLDS])
def test_all_rows_and_seeds_of_a_target_s_fold_have_one_split(tmp_path, folds_of_files):
    for i, name in enumerate(SITES[:2]):
        make_site(tmp_path / "sites" / name, seed=i, patients=12 + i, folds=folds_of_files)
    variants = {"v": {"method": "steph", "recipe": {"training": {"lr": 0.5}, "model": {"embed": 5}}}}
    plan = plan_of(tmp_path, SITES[:2], SITES[:2], methods=["local", "steph", "deployed"], variants=variants)
    worker = Worker(Ground(tmp_path / "out", {name: tmp_path / "sites" / name for name in SITES[:2]}, "cpu"))
    found = {}
    for cell in plan.cells:
        workspace = worker.workspace(cell.target, cell.unit.recipe)
        test, train = workspace.test_part(cell.fold), workspace.train_part(cell.fold)
        parts = tuple(p.id for p in test.patients), tuple(p.id for p in train.patients)
        assert not {*parts[0]} & {*parts[1]}
        assert found.setdefault((cell.target, cell.fold), parts) == parts
    assert len({*found.values()}) == 4
