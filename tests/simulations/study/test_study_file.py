"""A study's YAML: presets and what goes over them, and one line for whatever is wrong in it or in its sites."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from sites import make_site
from studies import ROOT, write_study

from fedsteph.common.config.digest import to_dict
from fedsteph.common.config.method_names import METHODS
from fedsteph.common.config.presets import PRESETS
from fedsteph.common.config.run_config import load_config
from fedsteph.simulations.study.study_file import Study, load_study

STUDIES = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.name != "simulate.yaml")


def study_of(tmp_path: Path, *overrides: str, **content: object) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_study(path, tmp_path, overrides)


def row(study: Study, name: str):
    return next(row for row in study.rows if row.name == name)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_studies_that_come_along_are_read(path):
    study = load_study(path, ROOT)
    assert [r.name for r in study.rows][: len(study.file.methods)] == list(study.file.methods)
    assert len({r.name for r in study.rows}) == len(study.rows) > 1


def test_an_empty_study_compares_the_usual_four_at_every_site(tmp_path):
    study = study_of(tmp_path)
    assert [(r.name, r.method, r.title, r.sources) for r in study.rows] == [
        (name, name, METHODS[name].title, None) for name in ("local", "model_average", "steph", "deployed")
    ]
    assert (study.file.only, study.file.targets, study.file.seeds, study.file.against) == ((), (), (0,), ("local",))
    assert study.evaluation.folds == 5


def test_rows_are_the_methods_and_then_the_variants_in_the_files_order(tmp_path):
    study = study_of(
        tmp_path,
        methods=["steph", "local"],
        variants={"z": {"method": "steph", "sources": 2}, "a = 1": {"method": "pooled"}},
        against=["a = 1"],
    )
    assert [(r.name, r.method, r.title, r.sources) for r in study.rows] == [
        ("steph", "steph", "STEPH", None),
        ("local", "local", "local", None),
        ("z", "steph", "z", 2),
        ("a = 1", "pooled", "a = 1", None),
    ]


def test_preset_then_the_study_s_keys_then_the_row_s(tmp_path, monkeypatch):
    robust = {"training": {"epochs": 7, "lr": 0.1, "weight_decay": 0.3}, "steph": {"K": 2}}
    monkeypatch.setitem(PRESETS, "robust", robust)
    study = study_of(
        tmp_path,
        recipe={"preset": "paper", "training": {"lr": 0.5}},
        variants={
            "own key": {"method": "steph", "recipe": {"training": {"lr": 0.25}}},
            "own preset": {"method": "steph", "recipe": {"preset": "robust"}},
            "both": {"method": "steph", "recipe": {"preset": "robust", "training": {"epochs": 3}, "steph": {"K": 1}}},
            "no preset": {"method": "steph", "recipe": {"preset": None}},
            "half bytes": {"method": "steph", "recipe": {"sharing": {"dtype": "float16"}}},
        },
    )

    def found(name: str) -> tuple:
        c = row(study, name).config
        return c.preset, c.training.lr, c.training.epochs, c.training.weight_decay, c.steph.K, c.model.head_bias

    assert found("steph") == found("local") == ("paper", 0.5, 20, 1e-5, 5, "default")
    assert found("own key") == ("paper", 0.25, 20, 1e-5, 5, "default")
    # Of the paper's preset nothing is left in a row with another one; the study's own keys hold there too.
    assert found("own preset") == ("robust", 0.5, 7, 0.3, 2, "empirical")
    assert found("both") == ("robust", 0.5, 3, 0.3, 1, "empirical")
    assert [row(study, name).config.sharing.dtype for name in ("half bytes", "both")] == ["float16", "float32"]
    assert found("no preset") == (None, 0.5, 20, 1e-5, 5, "empirical")


def test_a_study_without_a_recipe_has_a_federation_s_own(tmp_path):
    for found in study_of(tmp_path).rows:
        assert to_dict(found.config) == to_dict(load_config(None))


def test_reading_a_study_leaves_the_presets_as_they_are(tmp_path):
    before = yaml.safe_dump(PRESETS)
    study_of(tmp_path, recipe={"preset": "paper", "steph": {"K": 1}}, variants={"v": {"method": "steph"}})
    assert yaml.safe_dump(PRESETS) == before


def test_set_goes_over_the_file_down_to_a_variant_s_recipe(tmp_path):
    study = study_of(
        tmp_path,
        "seeds=[3,4]",
        "methods=[local]",
        "recipe.training.epochs=3",
        "variants.wide.recipe.model.embed=16",
        "variants.new.method=ties",
        seeds=[0],
        methods=["local", "steph"],
        recipe={"training": {"epochs": 2, "lr": 0.5}},
        variants={"wide": {"method": "local", "recipe": {"model": {"attention": 5}}}},
    )
    assert study.file.seeds == (3, 4)
    assert [r.name for r in study.rows] == ["local", "wide", "new"]
    assert {(r.config.training.epochs, r.config.training.lr) for r in study.rows} == {(3, 0.5)}
    assert [(r.config.model.embed, r.config.model.attention) for r in study.rows[:2]] == [(512, 384), (16, 5)]


def test_sites_lie_beside_the_study_s_file_or_where_the_option_says(tmp_path):
    path = write_study(tmp_path / "below" / "study.yaml", sites="../data")
    assert load_study(path).file.sites == tmp_path / "data"
    assert load_study(path, tmp_path / "other").file.sites == tmp_path / "other"


def test_only_a_row_s_own_sections_differ_from_the_others(tmp_path):
    study = study_of(tmp_path, variants={"v": {"method": "local", "recipe": {"comparators": {"rounds": 3}}}})
    shared, own = to_dict(row(study, "local").config), to_dict(row(study, "v").config)
    assert own["comparators"].pop("rounds") == 3
    shared["comparators"].pop("rounds")
    assert shared == own


BAD_STUDIES = {
    "unknown method": ("methods: [local, magic]", ["methods", "magic"]),
    "unknown key": ("mehtods: [local]", ["'mehtods'", "'methods'"]),
    "no local": ("methods: [steph]", ["methods", "local"]),
    "a method twice": ("methods: [local, local]", ["methods", "repetitions"]),
    "a site twice": ("only: [a, a]", ["only", "repetitions"]),
    "no name of a site": ("targets: [A b]", ["targets"]),
    "seeds twice": ("seeds: [1, 1]", ["seeds"]),
    "no seed": ("seeds: []", ["seeds"]),
    "negative seed": ("seeds: [-1]", ["seeds"]),
    "seed of text": ("seeds: [one]", ["seeds[0]", "one"]),
    "seeds no list": ("seeds: 3", ["seeds"]),
    "against no row": ("against: [steph2]", ["against", "steph2"]),
    "wrong section": ("recipe: {federation: {quorum: 2}}", ["'recipe'", "'federation'"]),
    "recipe's unknown key": ("recipe: {steph: {gama: 1}}", ["steph.gama"]),
    "recipe's bad value": ("recipe: {training: {lr: -1}}", ["training.lr"]),
    "section no mapping": ("recipe: {comparators: 3}", ["comparators"]),
    "recipe no mapping": ("recipe: paper", ["'recipe'"]),
    "unknown preset": ("recipe: {preset: papr}", ["preset", "papr"]),
    "seed in the recipe": ("recipe: {training: {seed: 1}}", ["training.seed", "'seeds'"]),
    "methods in the recipe": ("recipe: {comparators: {methods: [ties]}}", ["comparators.methods", "'methods'"]),
    "variants no mapping": ("variants: [steph]", ["'variants'"]),
    "variant no mapping": ("variants: {x: steph}", ["'variants.x'"]),
    "variant without method": ("variants: {x: {sources: 1}}", ["variants.x.method"]),
    "variant's unknown method": ("variants: {x: {method: magic}}", ["variants.x.method"]),
    "variant's unknown key": ("variants: {x: {method: steph, source: 1}}", ["variants.x.source"]),
    "variant without sources": ("variants: {x: {method: steph, sources: 0}}", ["variants.x.sources"]),
    "variant among strangers": ("variants: {x: {method: steph, among: friends}}", ["variants.x.among", "same_cancer"]),
    "among without vectors": ("variants: {x: {method: fedavg, among: same_cancer}}", ["variants.x.among", "null"]),
    "variant's wrong section": (
        "variants: {x: {method: steph, recipe: {device: cpu}}}",
        ["'variants.x'", "'device'"],
    ),
    "variant's bad value": ("variants: {x: {method: steph, recipe: {steph: {K: 0}}}}", ["steph.K"]),
    "variant's own seed": ("variants: {x: {method: steph, recipe: {training: {seed: 2}}}}", ["'variants.x'", "seed"]),
    "variant's recipe no mapping": ("variants: {x: {method: steph, recipe: 1}}", ["'variants.x.recipe'"]),
    "variant with a method's name": ("variants: {steph: {method: steph}}", ["'variants.steph'"]),
    "variant's odd name": ("variants: {'a|b': {method: steph}}", ["'variants.a|b'"]),
    "variant's long name": (f"variants: {{{'a' * 49}: {{method: steph}}}}", ["'variants.aaa"]),
    "variant's name a number": ("variants: {3: {method: steph}}", ["variants.3"]),
    "variant twice": ("variants:\n  x: {method: steph}\n  x: {method: local}", ["'x'", "twice"]),
    "other folds": ("variants: {x: {method: steph, recipe: {evaluation: {folds: 2}}}}", ["'variants.x'", "evaluation"]),
    "other splits": ("variants: {x: {method: steph, recipe: {evaluation: {split_seed: 1}}}}", ["evaluation"]),
    "no mapping": ("- local", ["mapping"]),
    "no YAML": ("methods: [local", ["YAML"]),
    "a number too large for a seed": ("seeds: [9223372036854775808]", ["seeds"]),
}


@pytest.mark.parametrize(("text", "named"), BAD_STUDIES.values(), ids=BAD_STUDIES.keys())
def test_a_wrong_study_is_one_line_that_names_file_and_key(text, named, study_sites, tmp_path, refused):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    said = refused("benchmark", path, "--sites", study_sites, "--out", tmp_path / "out")
    assert said.startswith(f"{path}: ")
    for word in named:
        assert word in said
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_that_is_not_there_and_sites_that_nobody_names(tmp_path, refused):
    assert str(tmp_path / "no.yaml") in refused("benchmark", tmp_path / "no.yaml", "--sites", tmp_path)
    path = write_study(tmp_path / "study.yaml")
    said = refused("benchmark", path, "--out", tmp_path / "out")
    assert said.startswith(f"{path}: ") and "'sites'" in said and "--sites" in said
    said = refused("benchmark", path, "--out", tmp_path / "out", "--sites", tmp_path / "nowhere")
    assert "nowhere" in said


BAD_OPTIONS = {
    "no such site": (["--set", "only=[alpha,delta]"], ["only", "delta", "alpha"]),
    "no such target": (["--set", "targets=[delta]"], ["targets", "delta"]),
    "a target that is left out": (["--set", "only=[beta,gamma]"], ["targets", "alpha", "beta, gamma"]),
    "one site": (["--set", "only=[alpha]", "--set", "targets=[alpha]"], ["one site"]),
    "too many folds": (["--set", "recipe.evaluation.folds=3"], ["3 folds", "2 split files"]),
    "another width": (["--set", "recipe.model.width=7"], ["model.width", "the sites' files"]),
    "absent gpu": (["--set", "device='cuda:9'"], ["cuda:9"]),
    "no such device": (["--set", "device=tpu"], ["tpu"]),
    "set without value": (["--set", "seeds"], ["seeds"]),
    "set of an unknown key": (["--set", "seed=1"], ["'seed'", "'seeds'"]),
    "no worker": (["--workers", 0], ["--workers"]),
    "no such option": (["--turbo"], ["--turbo"]),
}


@pytest.mark.parametrize(("words", "named"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_what_does_not_fit_the_sites_is_refused_before_anything_is_trained(
    words, named, study_sites, tmp_path, refused
):
    path = write_study(tmp_path / "study.yaml")
    said = refused("benchmark", path, "--sites", study_sites, "--out", tmp_path / "out", *words)
    for word in named:
        assert word in said
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.json"))


@pytest.fixture
def own_sites(tmp_path) -> Path:
    """Two sites that a test may break."""
    for i, name in enumerate(("alpha", "beta")):
        make_site(tmp_path / "sites" / name, seed=i, patients=12)
    return tmp_path / "sites"


@pytest.fixture
def benchmark_refused(own_sites, tmp_path, refused, monkeypatch):
    """The reason why a study over these sites is refused before it begins."""

    def begin(*_):
        raise AssertionError("the study began")

    monkeypatch.setattr("fedsteph.simulations.study.run_study.run_study", begin)
    path = write_study(tmp_path / "study.yaml", targets=None)

    def run(*words, out=tmp_path / "out"):
        return refused("benchmark", path, "--sites", own_sites, "--out", out, *words)

    return run


def test_a_row_cannot_have_another_width_than_the_sites(benchmark_refused):
    assert "model.width" in benchmark_refused(
        "--set", "variants.v.method=local", "--set", "variants.v.recipe.model.width=7"
    )


def test_two_folders_of_one_name_are_refused(own_sites, benchmark_refused):
    (own_sites / "beta" / "site.yaml").write_text("name: alpha\n")
    assert "alpha" in benchmark_refused()


def test_a_site_without_one_patient_of_a_split(own_sites, benchmark_refused):
    split = pd.read_csv(own_sites / "alpha" / "splits_1.csv", index_col=0)
    split.loc[0, "train"] = "P999"
    split.to_csv(own_sites / "alpha" / "splits_1.csv")
    assert str(own_sites / "alpha") in benchmark_refused()


def test_features_without_labels_are_not_left_out_silently(own_sites, benchmark_refused):
    (own_sites / "beta" / "labels.csv").unlink()
    assert str(own_sites / "beta") in benchmark_refused()


@pytest.mark.parametrize("place", ["file", "/proc/study"])
def test_an_out_that_cannot_be_written_is_the_user_s_fault(place, study_sites, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    path = write_study(tmp_path / "study.yaml")
    assert place.split("/")[-1] in refused("benchmark", path, "--sites", study_sites, "--out", tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", ["sites", "sites/alpha", "sites/study", "."])
def test_a_study_never_works_in_a_site_s_own_folder(place, tmp_path, benchmark_refused):
    """Its folder holds a ``sites`` of its own, so beside one of data it would write among them."""
    assert "--out" in benchmark_refused(out=tmp_path / place)
