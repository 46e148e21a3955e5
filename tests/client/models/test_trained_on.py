"""Who a model was trained on: recognised by ID, as the site spells it, and written only into files that stay there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, SMALL, make_recipe

from fedsteph.client.data.bags import Cohort
from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.models.local_file import train_file
from fedsteph.client.models.model_file import load_model, save_base
from fedsteph.client.models.trained_on import TrainedOn
from fedsteph.common.errors import ModelFileError
from fedsteph.common.model.initial_model import untrained_model

M0 = "0" * 64
IDS = ("P-1", "p-2 ", "PÄ3")


def cohort(ids=IDS, **more) -> Cohort:
    patients = [Patient(name, 100.0 + i, 1, ("S",)) for i, name in enumerate(ids)]
    bags = [torch.zeros(2, SMALL.width)] * len(patients)
    return replace(Cohort.of_bags(patients, bags), **more)


def test_ids_are_recognised_to_the_letter_or_as_the_site_file_says():
    model = untrained_model(SMALL, 1)
    plain = TrainedOn.of(cohort(), model)
    assert plain.among(["P-1", "p-1", "P-2", "PÄ3", "P4"]) == {"P-1", "PÄ3"}
    alike = TrainedOn.of(cohort(match=("case", "spaces")), model)
    assert alike.among(["P-1", "p-1", "P-2", "P4"]) == {"P-1", "p-1", "P-2"}
    assert TrainedOn.of(cohort(IDS[::-1]), model).digests.tolist() == plain.digests.tolist()
    other = TrainedOn.of(cohort(), untrained_model(SMALL, 2))
    assert not {*other.digests.tolist()} & {*plain.digests.tolist()}  # the same patients, another model


def test_a_file_has_them_without_an_id_in_it_and_a_false_number_is_refused(tmp_path):
    path, model = tmp_path / "m.safetensors", untrained_model(SMALL, 1)
    found = TrainedOn.of(cohort(match=("case",)), model)
    save_base(path, model, m0_sha256=M0, trained_on=found)
    loaded = load_model(path).trained_on
    assert loaded.salting == found.salting and np.array_equal(loaded.digests, found.digests)
    assert loaded.among(["p-1", "x"]) == {"p-1"} and b"P-1" not in path.read_bytes()
    for salting in (replace(found.salting, n=2), replace(found.salting, n=4)):
        save_base(path, model, m0_sha256=M0, trained_on=replace(found, salting=salting))
        with pytest.raises(ModelFileError, match="trained_on"):
            load_model(path)
    for changes in ({"n": 0}, {"salt": "short"}):
        with pytest.raises(ValueError, match="salt"):
            replace(found.salting, **changes)
    save_base(path, model, m0_sha256=M0)
    assert load_model(path).trained_on is None


def test_only_the_files_of_models_that_stay_have_them(tmp_path):
    recipe = make_recipe("training.epochs=1")
    patients = cohort(tuple(f"P{i}" for i in range(6)))
    patients = Cohort.of_bags(patients.patients, [torch.randn(3, recipe.model.width)] * 6)
    for kept in (True, False):
        path = tmp_path / f"{kept}.safetensors"
        train_file(path, patients, recipe, label="x", device=CPU, with_reference=kept)
        found = load_model(path).trained_on
        assert (found is not None) == kept
        assert found is None or found.among(["P0", "P5", "P6"]) == {"P0", "P5"}
    header = (tmp_path / "True.safetensors").read_bytes()
    told = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert told["trained_on"]["dtype"] == "I64" and told["trained_on"]["shape"] == [6]
