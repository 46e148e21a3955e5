"""A whole target: large and small ones, the result on its disk, the model cards, and a request sent again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from client_builders import Spy, m0_of, make_vectors, trained_workspace

import fedsteph.client.training.survival_fit
from fedsteph.client.models.model_file import load_model
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.steph.model import Steph
from fedsteph.client.target.enhance import RESULT_FILE, enhance_target
from fedsteph.common.config.digest import digest, to_dict
from fedsteph.common.config.recipe import SharingConfig
from fedsteph.common.host import checked_file
from fedsteph.common.host.progress import silent
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.vector.task_vector import TaskVector

QUICK = ("training.epochs=1", "steph.gamma=0.0")


def enhanced(workspace: Workspace, n_sources: int = 2, report=silent):
    return enhance_target(workspace, make_vectors(workspace.recipe, n_sources), report).to_dict()


def strict(text: str):
    def refuse(name: str):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(text, parse_constant=refuse)
    del found[checked_file.KEY]
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workspace = trained_workspace(tmp_path_factory.mktemp("target"), patients=20)
    return workspace, enhanced(workspace)


def test_the_result_lies_on_the_sites_disk(done):
    workspace, result = done
    assert strict((workspace.site.state / RESULT_FILE).read_text()) == result
    assert all(len(row["c_index"]) == 2 for row in result["methods"].values())
    for fold, choice in enumerate(result["methods"]["deployed"]["choice"]):
        kind = Steph if choice == "panel" else BaseModel
        assert isinstance(load_model(Path(result["models"]) / f"fold_{fold}.safetensors").model, kind)
        assert f"{choice} model" in (Path(result["models"]) / f"fold_{fold}.md").read_text()


def test_a_request_sent_again_trains_nothing_and_gives_the_same_result(monkeypatch, done):
    workspace, result = done
    fits = Spy(monkeypatch, fedsteph.client.training.survival_fit, "fit")
    reopened = Workspace.open(workspace.site, workspace.recipe)
    assert enhanced(reopened) == result and fits.calls == []


def test_other_vectors_are_other_work(done):
    workspace, result = done
    other = enhanced(workspace, n_sources=1)
    assert other["sources"] == ["s000"]
    assert other["methods"]["steph"]["c_index"] != result["methods"]["steph"]["c_index"]
    assert other["methods"]["local"] == result["methods"]["local"] and enhanced(workspace) == result


def test_the_target_s_own_vector_is_not_rounded_and_the_received_ones_are_taken_as_they_came(tmp_path):
    settings = ("training.epochs=3", "steph.gamma=0.0", "sharing.dtype=bfloat16")
    workspace = trained_workspace(tmp_path, *settings, patients=20)
    vectors = {
        name: as_received(vector, workspace.recipe.sharing)
        for name, vector in make_vectors(workspace.recipe, 2).items()
    }
    result = enhance_target(workspace, vectors)
    assert result.sharing == SharingConfig(dtype="bfloat16")
    for fold in range(2):
        own = TaskVector.between(workspace.local_model(fold), m0_of(workspace.recipe))
        assert not torch.equal(own.flat(), as_received(own, workspace.recipe.sharing).flat())
        (path,) = workspace.folder.glob(f"merge-*/fold_{fold}/steph.safetensors")
        stack = load_model(path).model.mixture.stack
        assert torch.equal(stack, torch.stack([own.flat(), *(vector.flat() for vector in vectors.values())]))
        assert "| their vectors were sent in | bfloat16 |" in path.with_suffix(".md").read_text()


def test_progress_never_goes_back_and_ends_whole(tmp_path):
    seen = []
    enhanced(trained_workspace(tmp_path, patients=12), report=lambda *step: seen.append(step))
    assert seen == sorted(seen) and (seen[0], seen[-1]) == ((0, 18), (18, 18))


@pytest.mark.parametrize(
    ("patients", "events", "too_small"),
    [
        (20, 0, "This target cannot be evaluated"),
        (20, 1, "1 of 2 test folds"),
        (4, 4, ""),
        (2, 2, "This target is too small to evaluate"),
    ],
)
def test_small_targets_get_a_result_and_not_a_crash(tmp_path, patients, events, too_small):
    workspace = trained_workspace(tmp_path, *QUICK, patients=patients, event_share=events / patients)
    result = enhanced(workspace)
    assert strict((workspace.site.state / RESULT_FILE).read_text()) == result
    assert (result["n_patients"], result["n_events"]) == (patients, events)
    assert (result["too_small"] or "").startswith(too_small)
    if too_small.startswith("This target"):
        assert result["methods"]["deployed"]["choice"] == ["local", "local"]
        for row in result["methods"].values():
            assert (row["c_index"], row["mean"], row["interval_95"]) == ([None, None], None, None)
    card = (workspace.fold_folder(0) / "local.md").read_text()
    assert ("undefined (no comparable pair)" in card) == (result["methods"]["local"]["c_index"][0] is None)


def test_the_model_cards_say_what_a_reader_needs_and_name_no_patient(done):
    workspace, result = done
    cards = sorted(workspace.folder.rglob("*.md"))
    models = sorted(path for path in workspace.folder.rglob("*.safetensors") if "merge-" not in str(path))
    assert {path.with_suffix(".md") for path in models} <= {*cards}
    for card in cards:
        text = card.read_text()
        assert "| patients of the site | 20-29 |" in text and "| events of the site | 10-19 |" in text
        assert "Not a medical device" in text and str(workspace.recipe.model.m0_sha256) in text
        assert digest(workspace.recipe) in text
        assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]) == to_dict(workspace.recipe)
        assert not re.search(r"P\d{3}|DX\d", text) and str(workspace.site.folder) not in text
        assert str(workspace.site.folder.parent) not in text
    methods = result["methods"]
    for k in range(2):
        merged = next(path for path in cards if path.match(f"merge-*/fold_{k}/steph.md") and "s001" in path.read_text())
        text = merged.read_text()
        assert f"| C-index on this fold's test part | {methods['steph']['c_index'][k]:.3f} |" in text
        assert f"| C-index of the local model there | {methods['local']['c_index'][k]:.3f} |" in text
        assert "| sources | s000, s001 |" in text and "| their vectors were sent in | float32 |" in text
        assert methods["deployed"]["reason"][k] in text
        assert f"| collapsed | {'yes' if methods['steph']['collapsed'][k] else 'no'} |" in text
        panel = merged.with_name("panel.md").read_text()
        assert f"| C-index on this fold's test part | {methods['panel']['c_index'][k]:.3f} |" in panel
