"""Every attack end to end: what a target deploys, whom it names and why, and that honest sources are left alone."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from fedsteph.client.models.model_file import load_model
from fedsteph.client.privacy.dp_settings import DpSgd
from fedsteph.client.sharing.outgoing import shared_vector
from fedsteph.client.target.enhance import RESULT_FILE, enhance_target
from fedsteph.common.host.checked_file import read_json
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.initial_model import pinned_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.simulations.attacks import vectors
from fedsteph.simulations.attacks.poisoned_federation import trained_vector


def enhanced(federation, sent: dict[str, TaskVector], screening: str = "refuse"):
    return enhance_target(federation.under(screening), sent).to_dict()


def replaced(federation, **poisoned: TaskVector) -> dict[str, TaskVector]:
    return {**federation.honest, **poisoned}


def suspects(result) -> list[set[str]]:
    """Per fold, who is suspicious."""
    return [{name for name, verdict in fold.items() if verdict["suspicious"]} for fold in result["screening"]["folds"]]


def gain(result) -> float:
    """Mean C-index of what is deployed, less the local model's."""
    methods = result["methods"]
    return methods["deployed"]["mean"] - methods["local"]["mean"]


def test_an_honest_federation_raises_no_alarm_and_is_merged_whole(federation):
    result = enhanced(federation, federation.honest)
    assert suspects(result) == [set(), set()]
    assert result["screening"]["policy"] == "refuse"
    for fold, used in zip(result["screening"]["folds"], result["methods"]["steph"]["sources"], strict=True):
        assert list(fold) == list(used) == list(federation.honest)
        assert {verdict["weight"] for verdict in fold.values()} == {1.0}
        assert all(verdict["figures"]["alone"] and verdict["figures"]["within"] for verdict in fold.values())
    assert read_json(federation.target.site.state / RESULT_FILE) == result


def test_who_sends_harm_is_named_left_out_and_costs_nothing(federation):
    """Of too large a norm, or of the norm of honest vectors."""
    cedar, elm = vectors.noise(federation.honest["cedar"], 1), -1.0 * federation.honest["elm"]
    result = enhanced(federation, replaced(federation, cedar=cedar, elm=elm))
    assert suspects(result) == [{"cedar", "elm"}] * 2
    for fold, used in zip(result["screening"]["folds"], result["methods"]["steph"]["sources"], strict=True):
        assert "times the median" in fold["cedar"]["reason"]
        assert "it harms the target's own model on inner validation by" in fold["elm"]["reason"]
        assert fold["cedar"]["weight"] == fold["elm"]["weight"] == 0
        assert not {"cedar", "elm"} & {*used}
    assert gain(result) >= -0.01


def test_a_random_direction_of_honest_norm_costs_nothing(federation):
    sent = replaced(
        federation, **{name: vectors.random_direction(federation.honest[name], 1) for name in ("ash", "elm")}
    )
    assert gain(enhanced(federation, sent)) >= -0.01


def test_copies_of_the_target_s_own_vector_and_of_a_source_are_caught_however_well_they_do(federation):
    """The own one was trained on other folds' test patients, so that every figure but its direction speaks for it."""
    copies = {"birch": 1.3 * shared_vector(federation.target), "elm": 1.1 * federation.honest["ash"]}
    result = enhanced(federation, replaced(federation, **copies))
    for fold in result["screening"]["folds"]:
        assert "it is a copy of the target's own vector" in fold["birch"]["reason"]
        assert fold["birch"]["figures"]["own_cosine"] > 0.9
        assert "it is a copy of the vector of ash" in fold["elm"]["reason"]
    assert suspects(result) == [{"birch", "elm"}] * 2, "of two copies of one source one stays"


def test_a_copy_of_what_a_private_target_shares_is_caught_too(federation):
    """Its own models are no relatives of it."""
    target = federation.target.sharing(DpSgd(noise=5.0, epochs=3))
    copy, own = (
        0.7 * trained_vector(target),
        TaskVector.between(target.local_model(0), pinned_model(target.recipe.model)),
    )
    assert abs(float(torch.cosine_similarity(copy.flat(), own.flat(), dim=0))) < 0.5
    result = enhance_target(target, replaced(federation, birch=copy)).to_dict()
    for fold in result["screening"]["folds"]:
        assert "it is a copy of the target's own vector" in fold["birch"]["reason"]


def test_four_of_five_who_collude_are_each_found(federation):
    """Leaving one of them out changes nothing: the other three do the same harm."""
    flipped = {name: -1.0 * federation.honest[name] for name in ("ash", "birch", "cedar", "elm")}
    result = enhanced(federation, replaced(federation, **flipped))
    assert suspects(result) == [{*flipped}, {*flipped}]
    assert gain(result) >= -0.01


def test_where_every_source_is_refused_the_local_model_is_deployed(federation):
    sent = {name: -1.0 * vector for name, vector in federation.honest.items()}
    result = enhanced(federation, sent)
    methods = result["methods"]
    assert suspects(result) == [{*sent}, {*sent}]
    assert methods["deployed"]["choice"] == ["local", "local"]
    assert methods["deployed"]["reason"] == ["the screening refused every source: there is nothing to merge"] * 2
    assert methods["steph"]["c_index"] == methods["local"]["c_index"] == methods["model_average"]["c_index"]
    assert methods["steph"]["sources"] == [{}, {}]
    for fold in range(2):
        deployed = federation.target.site.state / "deployed" / f"fold_{fold}.safetensors"
        assert isinstance(load_model(deployed).model, BaseModel)
        assert "cedar (it harms" in deployed.with_suffix(".md").read_text()


def test_report_changes_nothing_and_says_everything(federation, caplog):
    sent = replaced(federation, cedar=10.0 * federation.honest["cedar"])
    with caplog.at_level(logging.WARNING):
        reported = enhanced(federation, sent, "report")
    assert suspects(reported) == [{"cedar"}, {"cedar"}]
    assert reported["screening"]["folds"][0]["cedar"]["weight"] == 1.0
    assert list(reported["methods"]["steph"]["sources"][0]) == list(sent)
    assert "the vector of cedar is suspicious, merged with weight 1" in caplog.text
    refused = enhanced(federation, sent, "refuse")
    assert refused["methods"]["local"] == reported["methods"]["local"]
    assert refused["methods"]["steph"]["c_index"] != reported["methods"]["steph"]["c_index"]
    assert enhanced(federation, sent, "report") == reported, "one policy's work was taken for another's"


def test_down_weight_leaves_a_quarter_of_the_median_norm(federation):
    sent = replaced(federation, cedar=10.0 * federation.honest["cedar"])
    result = enhanced(federation, sent, "down-weight")
    median = np.median([vector.norm for vector in sent.values()])
    for fold in range(2):
        weight = result["screening"]["folds"][fold]["cedar"]["weight"]
        assert weight * sent["cedar"].norm == pytest.approx(median / 4, rel=1e-5)
        made = federation.target.folder.glob(f"merge-*/fold_{fold}/screened-*/steph.safetensors")
        (merged,) = (one for one in map(load_model, made) if one.sources == tuple(sent))
        assert float(merged.model.mixture.stack[3].norm()) == pytest.approx(median / 4, rel=1e-4)
