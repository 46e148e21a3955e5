"""The configuration: the published recipe by default, every key checked, one digest for one meaning."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest
import yaml
from each_case import each
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.config.method_names import COMPARATORS, METHODS
from fedsteph.common.config.presets import PRESETS
from fedsteph.common.config.recipe import ComparatorConfig, ModelConfig, Recipe, StephConfig
from fedsteph.common.config.run_config import SITE_NAME, Config, FederationConfig, dump_yaml, load_config
from fedsteph.common.config.steph_epochs import followed_epochs
from fedsteph.common.errors import ConfigError

EXAMPLES = {path: yaml.safe_load(path.read_text()) for path in (Path(__file__).parents[3] / "configs").glob("*.yaml")}
CONFIGS = sorted(path for path, content in EXAMPLES.items() if "recipe" not in content)  # the others are studies
SHA256 = "0123456789abcdef" * 4


def from_text(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "federation.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, [*plain(*overrides, text), *overrides])


def with_set(*overrides: str) -> Config:
    return load_config(None, [*plain(*overrides), *overrides])


def plain(*given: str) -> list[str]:
    """The override to the plain defaults, which these tests are about, where nothing names a preset."""
    return [] if any("preset" in text for text in given) else ["preset=null"]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        with_set(*overrides)
    assert caught.value.where
    return str(caught.value)


def leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type of every value that a configuration holds."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        found |= leaves(hint, f"{prefix}{name}.") if is_dataclass(hint) else {f"{prefix}{name}": hint}
    return found


def value_at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


@each("preset", ["null", "paper"])
@each(
    ("key", "expected"),
    [
        ("model.embed", 512),
        ("model.attention", 384),
        ("model.n_bins", 32),
        ("model.dropout", 0.25),
        ("model.m0_seed", 42),
        ("training.epochs", 20),
        ("training.lr", 1e-4),
        ("training.weight_decay", 1e-5),
        ("training.batch_bags", 16),
        ("training.warmup_epochs", 1.0),
        ("training.loss", "nll"),
        ("training.alpha", 0.5),
        ("training.min_steps", 0),
        ("sharing.dtype", "float32"),
        ("sharing.trained_on", "fold_0"),
        ("sharing.members", 1),
        ("sharing.layers", "encoder"),
        ("sharing.rank", None),
        ("steph.K", 5),
        ("steph.variant", "nn"),
        ("steph.weights", "nn"),
        ("steph.output", "relu"),
        ("steph.start", "default"),
        ("steph.normalise", False),
        ("steph.epochs", None),
        ("steph.lr", None),
        ("steph.beta", 0.05),
        ("steph.balance", True),
        ("steph.routing_test", None),
        ("steph.inner_repeats", 1),
        ("comparators.methods", ("model_average",)),
        ("evaluation.folds", 5),
    ],
)
def test_the_recipe_of_the_paper(key: str, expected: Any, preset: str) -> None:
    assert value_at(with_set(f"preset={preset}"), key) == expected


PAPER = [
    ("model.head_bias", "empirical", "default"),
    ("training.drop_last", False, True),
    ("sharing.head", "same_cancer", "never"),
    ("steph.gamma_grid", (0.0, 0.005, 0.05), (0.005, 0.05)),
]


@each(("key", "default", "paper"), PAPER)
def test_where_the_preset_differs_from_the_defaults(key: str, default: Any, paper: Any, tmp_path: Path) -> None:
    """A key in the file or in --set wins over it, and its section's other keys still come from it."""
    assert value_at(with_set(), key) == default and value_at(with_set("preset=paper"), key) == paper
    section, name = key.split(".")
    value = list(default) if isinstance(default, tuple) else default
    own = from_text(tmp_path, yaml.safe_dump({"preset": "paper", section: {name: value}}))
    others = [(k, p) for k, _, p in PAPER if k != key]
    for config in (own, with_set("preset=paper", f"{key}={value}")):
        assert value_at(config, key) == default and [(k, value_at(config, k)) for k, _ in others] == others


def test_the_preset_changes_nothing_else_and_is_not_changed_by_its_use() -> None:
    keys = {key for key in leaves(Recipe) if value_at(with_set(), key) != value_at(with_set("preset=paper"), key)}
    assert keys == {key for key, _, _ in PAPER}
    with_set("preset=paper", "steph.gamma_grid=[9]", "model.embed=3")
    assert with_set("preset=paper").steph.gamma_grid == (0.005, 0.05)


@each("name", PRESETS)
def test_every_preset_is_a_whole_recipe_that_reads_back(name: str, tmp_path: Path) -> None:
    config = with_set(f"preset={name}")
    assert config.preset == name
    assert config == from_text(tmp_path, f"preset: {name}\n") == from_text(tmp_path, dump_yaml(config))
    assert all(PRESETS[name][section] for section in ("model", "training", "steph"))
    for section, values in PRESETS[name].items():
        for key, value in values.items():
            assert value_at(config, f"{section}.{key}") == (tuple(value) if isinstance(value, list) else value)


def test_no_preset_is_the_recipe_of_another_or_the_default() -> None:
    assert len({digest(with_set(f"preset={name}").recipe) for name in (*PRESETS, "null")}) == 1 + len(PRESETS)


@each("preset", ["papr", "7", "[paper]", "{paper: 1}", "true", "''"])
def test_an_unknown_preset_is_refused(preset: str) -> None:
    assert "unknown preset" in refusal(f"preset={preset}")
    assert f"Known presets: {', '.join(PRESETS)}" in refusal(f"preset={preset}") and next(iter(PRESETS)) == "paper"


@each(
    ("key", "hint"),
    [
        ("modle", "Did you mean 'model'?"),
        ("model.embd", "Did you mean 'model.embed'?"),
        ("training.epoch", "Did you mean 'training.epochs'?"),
        ("sharing.dytpe", "Did you mean 'sharing.dtype'?"),
        ("sharing.layer", "Did you mean 'sharing.layers'?"),
        ("shared", "Did you mean 'sharing'?"),
        ("steph.gama", "Did you mean 'steph.gamma'?"),
        ("steph.norm", "Did you mean 'steph.normalise'?"),
        ("comparator", "Did you mean 'comparators'?"),
        ("comparators.method", "Did you mean 'comparators.methods'?"),
        ("evaluation.bootstraps", "Did you mean 'evaluation.bootstrap'?"),
        ("federation.quorom", "Did you mean 'federation.quorum'?"),
        ("federation.deadlines.helo", "Did you mean 'federation.deadlines.hello'?"),
        ("federation.deadlines.zzz", "Known keys: nodes, hello, local, share, merge"),
    ],
)
def test_an_unknown_key_is_refused_with_a_hint(key: str, hint: str, tmp_path: Path) -> None:
    assert f"unknown key '{key}'. {hint}" in refusal(f"{key}=1")
    nested = 1
    for part in reversed(key.split(".")):
        nested = {part: nested}
    with pytest.raises(ConfigError, match=rf"federation\.yaml: unknown key '{re.escape(key)}'"):
        from_text(tmp_path, yaml.safe_dump(nested))


OUT_OF_RANGE = [
    ("model.width", "0"),
    ("model.width", "65537"),
    ("model.embed", "0"),
    ("model.embed", "8193"),
    ("model.attention", "-1"),
    ("model.n_bins", "0"),
    ("model.kind", "transformer"),
    ("model.max_instances", "0"),
    ("model.dropout", "1"),
    ("model.dropout", "-0.1"),
    ("model.m0_seed", "-1"),
    ("model.m0_seed", str(2**63)),
    ("model.encoder", "''"),
    ("model.encoder", '"two\\nlines"'),
    ("model.magnification", "0"),
    ("model.magnification", "1001"),
    ("model.patch_size", "-1"),
    ("model.patch_size", "65537"),
    ("model.m0", "''"),
    ("model.m0_sha256", "abc"),
    ("model.m0_sha256", f"'{SHA256.upper()}'"),
    ("model.m0_sha256", f"'{SHA256}0'"),
    ("model.m0_sha256", f'"{SHA256}\\n"'),
    ("training.epochs", "0"),
    ("training.epochs", "10001"),
    ("training.min_steps", "-1"),
    ("training.min_steps", "1000001"),
    ("training.lr", "0"),
    ("training.lr", "1.1"),
    ("training.lr", "-1e-4"),
    ("training.weight_decay", "-1e-9"),
    ("training.weight_decay", "2"),
    ("training.batch_bags", "0"),
    ("training.batch_bags", "4097"),
    ("training.warmup_epochs", "-1"),
    ("training.warmup_epochs", "21"),
    ("training.alpha", "1"),
    ("training.alpha", "-0.5"),
    ("training.seed", "-1"),
    ("sharing.members", "0"),
    ("sharing.members", "21"),
    ("sharing.rank", "0"),
    ("sharing.rank", "-1"),
    ("sharing.rank", "4097"),
    ("steph.K", "0"),
    ("steph.routing_instances", "0"),
    ("steph.routing_instances", "1000001"),
    ("steph.fixed_lam", "1.01"),
    ("steph.fixed_lam", "-0.01"),
    ("steph.start_lam", "0"),
    ("steph.start_lam", "-0.5"),
    ("steph.start_lam", "1.01"),
    ("steph.start_mass", "0"),
    ("steph.start_mass", "-1"),
    ("steph.start_mass", "10.1"),
    ("steph.start_sum", "0"),
    ("steph.start_sum", "10.1"),
    ("steph.spread", "-0.01"),
    ("steph.spread", "1.01"),
    ("steph.routing_test", "0.0009"),
    ("steph.routing_test", "1.01"),
    ("steph.epochs", "0"),
    ("steph.epochs_factor", "0"),
    ("steph.epochs_factor", "11"),
    ("steph.epochs", "1001"),
    ("steph.lr", "0"),
    ("steph.lr", "-1e-4"),
    ("steph.lr", "1.1"),
    ("steph.beta", "-0.05"),
    ("steph.gamma", "-1"),
    ("steph.gamma_grid", "[]"),
    ("steph.gamma_grid", "[0.05, -1]"),
    ("steph.inner_folds", "1"),
    ("steph.inner_folds", "21"),
    ("steph.inner_repeats", "0"),
    ("steph.inner_repeats", "21"),
    ("panel.steph", "-0.01"),
    ("panel.steph", "2.01"),
    ("panel.local", "-0.01"),
    ("panel.local", "2.01"),
    ("panel.same_cancer", "-0.01"),
    ("panel.same_cancer", "2.01"),
    ("panel.other_cancers", "-0.01"),
    ("panel.other_cancers", "2.01"),
    ("panel.doubt", "-0.01"),
    ("panel.doubt", "2.01"),
    ("panel.margin", "-10.1"),
    ("panel.margin", "10.1"),
    ("comparators.methods", "[ties, fed_avg]"),
    ("comparators.methods", "[ties, ties]"),
    ("comparators.methods", "[local]"),
    ("comparators.methods", "[pooled]"),
    ("comparators.gamma", "-0.001"),
    ("comparators.coefficients", "[]"),
    ("comparators.coefficients", "[0.1, -10.1]"),
    ("comparators.coefficients", f"[{', '.join(map(str, range(21)))}]"),
    ("comparators.density", "0"),
    ("comparators.density", "1.01"),
    ("comparators.surgery_rank", "0"),
    ("comparators.surgery_rank", "4097"),
    ("comparators.rounds", "0"),
    ("comparators.rounds", "1001"),
    ("comparators.local_epochs", "0"),
    ("comparators.local_epochs", "101"),
    ("comparators.proximal_mu", "-0.01"),
    ("comparators.proximal_mu", "100.1"),
    ("steph.start_sum", "0"),
    ("steph.start_sum", "10.1"),
    ("comparators.distillation", "-0.01"),
    ("comparators.distillation", "100.1"),
    ("comparators.shrinkage", "-0.01"),
    ("comparators.shrinkage", "100.1"),
    ("evaluation.folds", "0"),
    ("evaluation.folds", "101"),
    ("evaluation.split_seed", "-1"),
    ("evaluation.bootstrap", "9"),
    ("evaluation.bootstrap", "100001"),
    ("final.members", "-1"),
    ("final.members", "21"),
    ("federation.name", "A b"),
    ("federation.sites", "[a, a]"),
    ("federation.targets", "[../a]"),
    ("federation.quorum", "1"),
    ("federation.max_vector_norm", "0"),
    ("federation.deadlines.nodes", "0"),
    ("federation.deadlines.hello", "0"),
    ("federation.deadlines.local", "-1"),
    ("federation.deadlines.share", "2592001"),
    ("federation.deadlines.merge", "0"),
    ("federation.deadlines.away", "-1"),
]
WRONG_TYPE = [
    ("federation.reuse", "often"),
    ("model.width", "1536.0"),
    ("model.width", "true"),
    ("model.embed", "null"),
    ("model.embed", "512.5"),
    ("model.dropout", "true"),
    ("model.dropout", ".nan"),
    ("model.head_bias", "Default"),
    ("model.head_bias", "null"),
    ("model.m0_sha256", "7"),
    ("training.epochs", "'20'"),
    ("training.epochs", "true"),
    ("training.lr", ".inf"),
    ("training.lr", "1e999"),
    ("training.lr", "'1e-4'"),
    ("training.lr", "[1]"),
    ("training.loss", "NLL"),
    ("training.precision", "float16"),
    ("training.precision", "null"),
    ("training.loss", "null"),
    ("training.min_steps", "80.0"),
    ("training.min_steps", "null"),
    ("training.drop_last", "1"),
    ("training.drop_last", "'true'"),
    ("sharing", "float16"),
    ("sharing.dtype", "float64"),
    ("sharing.dtype", "F16"),
    ("sharing.dtype", "16"),
    ("sharing.dtype", "null"),
    ("sharing.layers", "head"),
    ("sharing.layers", "attention_V"),
    ("sharing.layers", "[attention]"),
    ("sharing.layers", "null"),
    ("sharing.rank", "true"),
    ("sharing.rank", "4.0"),
    ("sharing.rank", "full"),
    ("sharing.head", "true"),
    ("sharing.trained_on", "fold_1"),
    ("sharing.trained_on", "null"),
    ("sharing.members", "true"),
    ("steph.K", "true"),
    ("steph.K", "2.0"),
    ("steph.K", "all"),
    ("steph.variant", "mlp"),
    ("steph.weights", "fnn"),
    ("steph.weights", "[nn]"),
    ("steph.output", "softmax"),
    ("steph.start", "m0"),
    ("steph.start", "true"),
    ("steph.start_lam", ".nan"),
    ("steph.start_mass", "null"),
    ("steph.start_sum", ".nan"),
    ("steph.spread", "true"),
    ("steph.routing_test", "true"),
    ("steph.normalise", "1"),
    ("steph.normalise", "null"),
    ("steph.epochs", "2.5"),
    ("steph.epochs", "default"),
    ("steph.lr", ".inf"),
    ("steph.lr", "'1e-4'"),
    ("steph.gamma", "auto"),
    ("steph.gamma", "true"),
    ("steph.gamma", ".nan"),
    ("steph.gamma_grid", "0.05"),
    ("steph.gamma_grid[0]", "[cv]"),
    ("steph.gamma_grid[1]", "[0, .nan]"),
    ("steph.balance", "0"),
    ("steph.inner_repeats", "1.0"),
    ("panel", "robust"),
    ("panel.steph", "true"),
    ("panel.local", "null"),
    ("panel.same_cancer", ".nan"),
    ("panel.other_cancers", "'0.2'"),
    ("panel.doubt", "[0.1]"),
    ("panel.margin", ".inf"),
    ("comparators", "[ties]"),
    ("comparators.methods", "ties"),
    ("comparators.methods", "null"),
    ("comparators.methods[1]", "[ties, 7]"),
    ("comparators.gamma", "cv"),
    ("comparators.coefficients", "0.3"),
    ("comparators.coefficients[0]", "[.nan]"),
    ("comparators.density", "true"),
    ("comparators.surgery_rank", "16.0"),
    ("comparators.rounds", "null"),
    ("comparators.local_epochs", "'1'"),
    ("comparators.proximal_mu", ".nan"),
    ("evaluation.folds", "5.0"),
    ("federation.name", "7"),
    ("federation.sites", "a"),
    ("federation.sites[0]", "[7]"),
    ("federation.deadlines", "300"),
    ("federation.deadlines.hello", "'300'"),
    ("federation", "[a]"),
    ("model", "null"),
    ("device", "0"),
]


@each(("key", "value"), [*OUT_OF_RANGE, *WRONG_TYPE])
def test_a_bad_value_is_refused_by_its_key(key: str, value: str) -> None:
    path = key.partition("[")[0]
    said = refusal(f"{path}={value}")
    assert f"{path} must be" in said or f"'{key}' must be" in said


def test_the_bad_values_cover_every_key() -> None:
    free = {"device"}
    closed = {key for key, hint in leaves(Config).items() if hint is bool or get_origin(hint) is Literal}
    assert leaves(Config).keys() - closed - free - {"preset"} == {key for key, _ in OUT_OF_RANGE}
    assert Counter(key for key, _ in WRONG_TYPE).keys() >= closed


@each(
    ("override", "expected"),
    [
        ("sharing.dtype=bfloat16", "bfloat16"),
        ("sharing.layers=attention", "attention"),
        ("sharing.rank=16", 16),
        ("sharing.rank=null", None),
        ("steph.K=3", 3),
        ("steph.K=null", None),
        ("steph.K=", None),
        ("training.lr=1e-5", 1e-5),
        ("training.lr=1", 1.0),
        ("steph.gamma=cv", "cv"),
        ("steph.gamma=5e-3", 0.005),
        ("steph.gamma_grid=[0, 1e-3]", (0.0, 0.001)),
        ("steph.balance=false", False),
        ("steph.epochs=null", None),
        ("steph.epochs=7", 7),
        ("steph.lr=1e-3", 0.001),
        ("comparators.methods=[]", ()),
        ("comparators.methods=[ties, fedavg]", ("ties", "fedavg")),
        ("comparators.coefficients=[-10, 1e-3, 10]", (-10.0, 0.001, 10.0)),
        ("federation.name=lung_2", "lung_2"),
        ("federation.sites=[a, b-1]", ("a", "b-1")),
        ("federation.deadlines.hello=0.5", 0.5),
        ("device=cuda:1", "cuda:1"),
    ],
)
def test_set(override: str, expected: Any) -> None:
    found = value_at(with_set(override), override.partition("=")[0])
    assert found == expected and type(found) is type(expected)


@each("override", ["steph.K", "", "=3", "steph.=3", ".K=3", "steph..K=3", "."])
def test_set_without_a_key_or_a_value_is_refused(override: str) -> None:
    assert refusal(override) == f"--set: '{override}' is not key=value. Write e.g. steph.K=3"


@each("value", ["[", "a: b", "- 1", "{", "*x", "!!python/name:os.system x"])
def test_set_to_what_is_not_yaml_is_refused(value: str) -> None:
    assert refusal(f"steph.K={value}").startswith(f"--set steph.K={value}: is not valid YAML")


def test_set_wins_over_the_file_and_the_last_over_the_first(tmp_path: Path) -> None:
    text = "steph: {K: 2, beta: 1}\ndevice: cpu\n"
    config = from_text(tmp_path, text, "steph.K=3", "steph.K=4")
    assert (config.steph.K, config.steph.beta) == (4, 1.0)
    with pytest.raises(ConfigError, match="'device' must be text"):
        from_text(tmp_path, text, "device.x=1")


@each(
    ("text", "said"),
    [
        ("steph: {K: 3}\nsteph: {K: 4}", "the key 'steph' is given twice"),
        ("steph:\n  K: 3\n  K: 4", "the key 'K' is given twice"),
        ("steph: [", "is not valid YAML"),
        ("- steph", "must be a mapping"),
        ("model: 3", "'model' must be a mapping, not 3"),
    ],
)
def test_a_bad_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        from_text(tmp_path, text)
    assert caught.value.where == str(tmp_path / "federation.yaml")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "none.yaml")


@each("path", CONFIGS)
def test_the_configurations_of_the_repository_load(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert digest(from_text(tmp_path, dump_yaml(config))) == digest(config) != digest(Config())


@each("name", ["", "A", "-a", "_a", "a b", "a/b", "..", "a.b", "a" * 33, "a\n", "ä", "\u0661"])
@each("key", ["name", "sites", "targets"])
def test_names_that_are_no_names_are_refused(name: str, key: str) -> None:
    """They become folders and keys of messages."""
    with pytest.raises(ValueError, match=key):
        FederationConfig(**{key: name if key == "name" else (name,)})


def test_targets_are_sites() -> None:
    assert with_set("federation.sites=[a, b]", "federation.targets=[b]").federation.targets == ("b",)
    assert with_set("federation.targets=[z]").federation.targets == ("z",)  # the sites are found later
    said = refusal("federation.sites=[a, b]", "federation.targets=[b, z, c]")
    assert "federation.targets must be among the sites; not among them: c, z" in said


def test_the_digest_does_not_see_order_or_notation(tmp_path: Path) -> None:
    texts = [
        "steph: {K: 3, beta: 1}\ntraining: {lr: 0.001}",
        "# the same\ntraining:\n  lr: 1.0e-3\nsteph:\n  beta: 1.0\n  K: 3\n",
        '{"training": {"lr": 1e-3}, "steph": {"beta": 1e0, "K": 0x3}, "model": {"embed": 512}}',
    ]
    digests = {digest(from_text(tmp_path, text)) for text in texts}
    assert len(digests) == 1 and re.fullmatch("[0-9a-f]{64}", digests.pop())


def test_the_digest_sees_every_key() -> None:
    others = {
        "model.head_bias": "default",
        "model.kind": "ilra",
        "model.max_instances": 9,
        "model.encoder": "uni_v2",
        "model.m0_sha256": SHA256,
        "training.loss": "cox",
        "training.precision": "bfloat16",
        "sharing.dtype": "float16",
        "sharing.layers": "attention",
        "sharing.head": "never",
        "sharing.trained_on": "all",
        "steph.variant": "fix",
        "steph.weights": "param",
        "steph.output": "softplus",
        "steph.start": "local",
        "steph.lr": 0.5,
        "steph.routing_test": 0.5,
        "steph.gamma": 1,
        "steph.gamma_grid": [1],
        "comparators.methods": ["ties"],
        "comparators.coefficients": [1],
        "federation.name": "x",
        "federation.sites": ["x"],
        "federation.targets": ["x"],
        "preset": "paper",
        "device": "cpu",
    }
    found = {digest(Config())}
    for key, hint in leaves(Config).items():
        if key == "model.m0":
            continue  # a path; m0_sha256 says what it must hold
        if key not in others:
            default = value_at(Config(), key)
            others[key] = not default if hint is bool else default / 2 if hint is float else (default or 0) + 3
        found.add(digest(with_set(f"{key}={others[key]}")))
    assert len(found) == len(leaves(Config))


def test_a_file_of_m0_is_beside_the_file_that_names_it_and_stays_on_its_machine(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    file = tmp_path / "a.yaml"
    file.write_text("model: {m0: m0.safetensors}\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_config(file).model.m0 == load_config("../a.yaml").model.m0 == str(tmp_path / "m0.safetensors")
    config = load_config(file, ["model.m0=m0.safetensors"])
    assert config.model.m0 == str(tmp_path / "here/m0.safetensors"), "an override is of whoever types it"
    assert "m0" not in to_dict(config)["model"] and to_dict(config, whole=True)["model"]["m0"] == config.model.m0
    assert digest(config) == digest(load_config(None)) and str(tmp_path) not in dump_yaml(config)
    assert config.recipe.base_digest == load_config(None).recipe.base_digest


def test_every_comparator_may_be_asked_for_and_none_that_needs_the_patients_of_others() -> None:
    assert ComparatorConfig(methods=COMPARATORS).methods == COMPARATORS
    for name in METHODS.keys() - {*COMPARATORS}:
        with pytest.raises(ValueError, match=f"and not {name}; known: "):
            ComparatorConfig(methods=(name,))
    said = refusal("comparators.methods=[ties, fed_avg, pooled]")
    assert f"comparators.methods must be known ones, and not fed_avg, pooled; known: {COMPARATORS[0]}, " in said
    assert "comparators.methods must be a list without repetitions" in refusal("comparators.methods=[ties, ties]")


def test_a_sigmoid_cannot_start_at_a_w_of_one() -> None:
    """Its inverse is infinite there."""
    with pytest.raises(ValueError, match="start_mass must be below 1 where output is sigmoid"):
        StephConfig(K=1, output="sigmoid", start="local", start_mass=1.0)
    assert StephConfig(K=1, output="sigmoid", start="local", start_mass=0.99).start_mass == 0.99
    assert StephConfig(K=1, output="softplus", start="local", start_mass=1.0).start_mass == 1.0


def test_a_panel_gives_the_target_s_own_models_a_weight() -> None:
    assert "panel.local must be above 0 where steph is 0" in refusal("panel.steph=0", "panel.local=0")
    assert with_set("panel.steph=0").recipe.panel.expected("local") == 0.2


def test_the_base_digest_sees_what_a_site_s_own_models_depend_on_and_nothing_else() -> None:
    base = Config().recipe.base_digest
    assert re.fullmatch("[0-9a-f]{64}", base)
    changed = ["model.embed=9", "model.m0_seed=1", "training.epochs=9", "training.min_steps=9", "training.loss=cox"]
    changed.append("training.seed=1")
    assert len({base, *(with_set(override).recipe.base_digest for override in changed)}) == 1 + len(changed)
    same = [
        "sharing.dtype=float16",
        "sharing.layers=embed",
        "sharing.rank=4",
        "sharing.members=2",
        "panel.local=0.5",
        "steph.K=2",
        "steph.epochs=9",
        "comparators.methods=[]",
        "evaluation.bootstrap=10",
        "device=cpu",
    ]
    assert {with_set(override).recipe.base_digest for override in same} == {base}
    assert len({digest(with_set(override)) for override in same}) == len(same)


def test_the_recipe_does_not_depend_on_who_runs_it() -> None:
    """A site's kept work stays valid when the federation around it changes."""
    config = with_set("federation.sites=[a, b]", "federation.deadlines.hello=1", "device=cpu")
    assert digest(config.recipe) == digest(Config().recipe) != digest(replace(Config(), model=ModelConfig(9)).recipe)
    spelled = with_set(
        "model.head_bias=default", "training.drop_last=true", "sharing.head=never", "steph.gamma_grid=[0.005, 0.05]"
    )
    assert digest(spelled.recipe) == digest(with_set("preset=paper").recipe)


NOT_TEXT_IN_YAML = ["no", "null", "1e5", "007", "0x1f", "1_0", "2020-01-01"]
names = st.from_regex(SITE_NAME, fullmatch=True) | st.sampled_from(NOT_TEXT_IN_YAML)


@settings(max_examples=20)
@given(
    st.lists(names, unique=True, max_size=4),
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([None, SHA256, "1" * 64, "1e" + "5" * 62, "0" * 64]),
    st.none() | st.integers(1, 10**18),
    st.just("cv") | st.floats(0, 1e300),
    st.none() | st.integers(1, 1000),
    st.lists(st.sampled_from(COMPARATORS), unique=True),
)
def test_what_is_dumped_loads_to_the_same_digest(
    tmp_path_factory: pytest.TempPathFactory,
    sites: list,
    lr: float,
    sha256: str | None,
    k: int | None,
    gamma: Any,
    epochs: int | None,
    methods: list,
) -> None:
    """Also where YAML would take a name or a digest for a number, a date or a truth value."""
    base = Config()
    config = replace(
        base,
        model=replace(base.model, m0_sha256=sha256),
        training=replace(base.training, lr=lr),
        steph=replace(base.steph, K=k, gamma=gamma, epochs=epochs),
        comparators=replace(base.comparators, methods=tuple(methods)),
        federation=replace(base.federation, sites=tuple(sites), targets=tuple(sites[:1])),
    )
    found = from_text(tmp_path_factory.getbasetemp(), dump_yaml(config))
    assert found == config and digest(found) == digest(config)


def test_steph_follows_the_base_model_s_epochs_and_one_that_was_set_and_forgotten_is_told(caplog):
    for changes, followed in (([], 10), (["training.epochs=50"], 25), (["preset=paper", "training.epochs=7"], 7)):
        assert followed_epochs(load_config(overrides=changes).recipe) == followed
    assert not caplog.records
    for _ in range(2):
        load_config(overrides=["steph.epochs=10", "training.epochs=50"])
    assert "steph.epochs is set to 10, and training.epochs is 50, which makes 25" in caplog.text
    assert len(caplog.records) == 1, "a run loads its configuration several times"
