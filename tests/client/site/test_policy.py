"""The site's policy: every rule on both sides of its limit, and what a site file may say."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import pytest
from client_builders import make_recipe
from each_case import each

from fedsteph.client.site.policy import Policy
from fedsteph.client.site.site import Site
from fedsteph.common.config.digest import digest
from fedsteph.common.config.schema import build, parse_yaml
from fedsteph.common.errors import (
    ConfigError,
    PrivacyPolicyError,
    RecipePolicyError,
    SizePolicyError,
    TargetPolicyError,
    UnsealedPolicyError,
)
from fedsteph.common.wire.messages import AverageReply

RECIPE = make_recipe()


def read_policy(folder: Path, text: str) -> Policy | None:
    (folder / "site.yaml").write_text(f"name: a\npolicy: {text}\n")
    return Site.open(folder).file.policy


def test_by_default_nothing_is_shared_with_anybody(tmp_path):
    policy = read_policy(tmp_path, "{}")
    assert policy == Policy()
    for target in ("a", "b", ""):
        with pytest.raises(TargetPolicyError):
            policy.require_target(target)
    with pytest.raises(SizePolicyError):
        policy.require_size(29, 29)
    policy.require_size(30, 10)
    with pytest.raises(RecipePolicyError):
        policy.require_recipe(RECIPE)
    with pytest.raises(UnsealedPolicyError):
        policy.require_unsealed()
    assert (policy.c_index(0.6, 49), policy.c_index(0.6, 50)) == (None, 0.6)


def test_a_site_file_without_a_policy_has_none(tmp_path):
    (tmp_path / "site.yaml").write_text("name: a\n")
    assert Site.open(tmp_path).file.policy is None


def test_every_key_of_a_policy(tmp_path):
    text = (
        "{targets: [b, c], min_patients: 50, min_events: 20, min_pairs: 80, min_group: 40, metrics: [events], "
        "share_head: false, count_band: 50, "
        "c_index_decimals: 1, privacy: dp-sgd, epsilon_budget: 4, max_attack_auc: 0.6, unsealed_updates: false, "
        f"recipes: [{'a' * 64}], max_runs_per_day: 3, max_merges_per_day: 5, vectors_kept_days: 30, screening: report}}"
    )
    expected = Policy(
        targets=("b", "c"),
        share_head=False,
        min_patients=50,
        min_events=20,
        min_pairs=80,
        min_group=40,
        metrics=("events",),
        count_band=50,
        c_index_decimals=1,
        privacy="dp-sgd",
        epsilon_budget=4.0,
        max_attack_auc=0.6,
        unsealed_updates=False,
        recipes=("a" * 64,),
        max_runs_per_day=3,
        max_merges_per_day=5,
        vectors_kept_days=30,
        screening="report",
    )
    assert read_policy(tmp_path, text) == expected
    assert {field.name for field in dataclasses.fields(Policy)} == parse_yaml(text, "policy").keys()


FAULTS = {
    "targets must be site names": ["{targets: [B]}", "{targets: ['*']}"],
    "'policy.targets' must be a list": ["{targets: b}"],
    "must be at least 1": ["{min_patients: 0}", "{min_events: 0}", "{min_pairs: 0}"],
    "'policy.min_pairs' must be a whole number": ["{min_pairs: null}"],
    "'policy.min_patients' must be a whole number": ["{min_patients: 30.5}", "{min_patients: true}"],
    r"'policy.metrics\[0\]' must be one of": ["{metrics: [ids]}"],
    "'policy.metrics' must be a list": ["{metrics: all}"],
    "count_band must be a multiple of 10": [f"{{count_band: {n}}}" for n in (1, 0, -10, 15, 10_010)],
    "'policy.c_index_decimals' must be one of 1, 2": ["{c_index_decimals: 0}", "{c_index_decimals: 3}"],
    "'policy.privacy' must be one of": ["{privacy: some}"],
    "'policy.unsealed_updates' must be true or false": [
        f"{{unsealed_updates: {value}}}" for value in ("1", "'true'", "null", "[b]")
    ],
    "Did you mean 'policy.unsealed_updates'": ["{unsealed: true}"],
    "vectors_kept_days must be 0 to 36500": [f"{{vectors_kept_days: {n}}}" for n in (-1, 36_501)],
    "'policy.vectors_kept_days' must be": [f"{{vectors_kept_days: {n}}}" for n in ("null", "true", "forever", "1.5")],
    "recipes must be digests": [f"{{recipes: [{value}]}}" for value in ("abc", "any", "A" * 64, "a" * 65)],
    r"'policy\.recipes'": [f"{{recipes: {value}}}" for value in ("null", "", "all", "Any", "true", "a" * 64)],
    "Did you mean 'policy.targets'": ["{target: [b]}"],
    "'policy' must be a mapping": ["[b]", "yes"],
}


def refusal(read, *given):
    try:
        return f"{read(*given)} was read"
    except ConfigError as error:
        return str(error)


def test_a_fault_in_the_policy_is_named_and_never_read_as_a_laxer_one(tmp_path):
    for said, text in ((said, text) for said, texts in FAULTS.items() for text in texts):
        assert re.search(r"site\.yaml: .*policy", refusal(read_policy, tmp_path, text)), text
        content = parse_yaml(f"policy: {text}", "site.yaml")["policy"]
        assert re.search(said, refusal(build, Policy, content, "site.yaml", "policy.")), text


def test_only_the_listed_targets_may_receive_the_vector():
    policy = Policy(targets=("b",))
    policy.require_target("b")
    for target in ("c", "B", "b ", "bb", ""):
        with pytest.raises(TargetPolicyError):
            policy.require_target(target)


@each(
    ("patients", "events", "enough"),
    [(20, 5, True), (21, 6, True), (19, 5, False), (20, 4, False), (0, 0, False), (10**6, 4, False)],
)
def test_the_size_behind_a_vector(patients, events, enough):
    policy = Policy(min_patients=20, min_events=5)
    if enough:
        policy.require_size(patients, events)
    else:
        with pytest.raises(SizePolicyError) as caught:
            policy.require_size(patients, events)
        assert not any(digit in caught.value.public_reason for digit in "0123456789")


def test_privacy_that_the_site_does_not_train_with_is_refused():
    for asked, trained in (("none", "none"), ("none", "dp-sgd"), ("dp-sgd", "dp-sgd")):
        Policy(privacy=asked).require_privacy(trained)
    with pytest.raises(PrivacyPolicyError, match="asks for dp-sgd, and this site's 'privacy' is none"):
        Policy(privacy="dp-sgd").require_privacy("none")


@pytest.mark.parametrize("key", ["privacy: dp-sgd", "epsilon_budget: 3", "max_attack_auc: 0.6"])
def test_rounds_that_are_not_private_go_with_no_promise_of_privacy(tmp_path, key):
    with pytest.raises(ConfigError, match="unsealed_updates must be false"):
        read_policy(tmp_path, f"{{unsealed_updates: true, {key}}}")
    assert read_policy(tmp_path, f"{{{key}}}").unsealed_updates is False


def test_the_server_reads_no_update_unless_the_policy_says_so(tmp_path):
    """Not because the policy is lax in everything else."""
    lax = read_policy(tmp_path, "{targets: [b], min_patients: 1, min_events: 1, min_pairs: 1, recipes: any}")
    for policy in (lax, Policy(targets=("server",), unsealed_updates=False)):
        with pytest.raises(UnsealedPolicyError) as caught:
            policy.require_unsealed()
        assert caught.value.where == "policy.unsealed_updates"
        assert caught.value.public_reason == "its policy lets no update go to the server unsealed"
    read_policy(tmp_path, "{unsealed_updates: true}").require_unsealed()


@each(
    ("width", "patients", "weight"),
    [
        (10, 0, 10),
        (10, 1, 10),
        (10, 14, 10),
        (10, 16, 10),
        (10, 37, 30),
        (10, 1_234, 1_230),
        (50, 3, 50),
        (50, 74, 50),
        (50, 76, 50),
        (50, 137, 100),
    ],
)
def test_a_site_s_weight_in_an_average_is_rounded_to_its_band(width, patients, weight):
    assert Policy(count_band=width).weight(patients) == weight


@each("width", [10, 30, 500])
def test_a_weight_stands_for_the_counts_of_a_band_and_says_no_more(width):
    """And it is one that the message takes."""
    policy = Policy(count_band=width)
    counts = {}
    for patients in range(4 * width):
        counts.setdefault(AverageReply(policy.weight(patients)).weight, []).append(patients)
    whole = {weight: alike for weight, alike in counts.items() if weight > width}
    assert all(alike == list(range(weight, weight + width)) for weight, alike in whole.items())
    assert counts[width] == list(range(2 * width))


def test_only_reviewed_recipes_unless_the_policy_says_any(tmp_path):
    Policy(recipes="any").require_recipe(RECIPE)
    read_policy(tmp_path, "{recipes: any}").require_recipe(RECIPE)
    reviewed = Policy(recipes=(digest(RECIPE),))
    reviewed.require_recipe(RECIPE)
    other = replace(RECIPE, training=replace(RECIPE.training, epochs=RECIPE.training.epochs + 1))
    with pytest.raises(RecipePolicyError) as caught:
        reviewed.require_recipe(other)
    assert digest(other) in str(caught.value)  # at the site: what its reviewer would have to add
    for none in (Policy(), Policy(recipes=())):
        with pytest.raises(RecipePolicyError):
            none.require_recipe(RECIPE)


@each(
    ("width", "count", "band"),
    [
        (10, 0, "below 10"),
        (10, 9, "below 10"),
        (10, 10, "10-19"),
        (10, 19, "10-19"),
        (10, 37, "30-39"),
        (10, 1000, "1000-1009"),
        (50, 49, "below 50"),
        (50, 50, "50-99"),
        (50, 137, "100-149"),
    ],
)
def test_counts_leave_as_bands(width, count, band):
    policy = Policy(count_band=width)
    assert policy.band("patients", count) == policy.band("events", count) == band


@each(
    ("decimals", "value", "rounded"),
    [(2, 0.6789, 0.68), (1, 0.6789, 0.7), (2, 1.0, 1.0), (2, 0.0, 0.0), (1, 0.04, 0.0), (2, None, None)],
)
def test_a_c_index_leaves_rounded(decimals, value, rounded):
    policy = Policy(c_index_decimals=decimals)
    assert policy.c_index(value, policy.min_pairs) == rounded


@each(("asked", "n_pairs", "leaves"), [(1, 0, False), (1, 1, True), (80, 79, False), (80, 80, True)])
def test_a_c_index_leaves_only_with_enough_pairs_behind_it(asked, n_pairs, leaves):
    """Of one pair it would say which of two patients lived longer."""
    policy = Policy(min_pairs=asked)
    for value in (0.0, 0.5, 1.0):
        assert policy.c_index(value, n_pairs) == (value if leaves else None)


def test_metrics_that_are_not_listed_are_null():
    only_events = Policy(metrics=("events",))
    assert only_events.band("patients", 37) is None and only_events.band("events", 37) == "30-39"
    assert only_events.c_index(0.6, 10**6) is None
    silent = Policy(metrics=())
    assert (silent.band("patients", 37), silent.band("events", 37), silent.c_index(0.6, 10**6)) == (None, None, None)


def test_a_simulated_site_shares_with_the_simulation_s_sites_and_no_others():
    policy = Policy.of_simulation(("a", "b"))
    policy.require_target("b")
    policy.require_size(1, 1)
    policy.require_recipe(RECIPE)
    policy.require_unsealed()
    assert policy.c_index(0.6, 1) == 0.6
    with pytest.raises(TargetPolicyError):
        policy.require_target("c")


@pytest.mark.parametrize("mode", ["report", "down-weight", "refuse"])
def test_what_becomes_of_suspicious_vectors(tmp_path, mode):
    assert read_policy(tmp_path, f"{{screening: {mode}}}") == Policy(screening=mode)


def test_screening_has_no_other_choice(tmp_path):
    assert Policy().screening == "refuse"
    with pytest.raises(ConfigError, match="screening"):
        read_policy(tmp_path, "{screening: none}")
