"""Notes of a training: quantiles by numpy, when it collapsed, a training that was killed, and nothing of a patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from client_builders import CPU, ON_CPU, equal, m0_of, make_cohort, make_recipe, make_vectors, state_of
from each_case import each

import fedsteph.client.training.checkpoint
from fedsteph.client.steph.dynamics import QUANTILES, Dynamics, collapsed_in, read_dynamics
from fedsteph.client.steph.fit import fit_steph
from fedsteph.client.steph.model import Routing
from fedsteph.client.training.epoch_log import to_tensorboard
from fedsteph.client.training.training_run import TrainingRun
from fedsteph.common.host.progress import silent
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import untrained_model

SOURCES = ["site-b", "site-c", "site-d"]


def random_routing(n: int, seed: int) -> Routing:
    """Of three sources two are kept, and some of their weights are 0; nobody keeps the last with a weight."""
    rng = np.random.default_rng(seed)
    w = rng.random((n, 3)) * [1, 0.8, 0]
    w[rng.random((n, 3)) < 0.3] = 0
    kept = np.argsort(-w, axis=1, kind="stable")[:, :2]
    return Routing(*(torch.from_numpy(x) for x in (w.astype(np.float32), rng.random((n, 3)).astype(np.float32), kept)))


def note(dynamics: Dynamics, routing: Routing, names: list[str]) -> None:
    dynamics.note(names, routing)


def people(n: int) -> list[str]:
    return [f"secret-patient-{i}" for i in range(n)]


def test_an_epoch_s_numbers_by_loops(tmp_path):
    """Noted in two stacks, as a training's steps come."""
    dynamics = Dynamics(tmp_path / "dynamics.json", SOURCES)
    stacks, names = [random_routing(7, 1), random_routing(5, 2)], people(12)
    note(dynamics, stacks[0], names[:7])
    note(dynamics, stacks[1], names[7:])
    told = dynamics.end_epoch(1)

    rows = [(one, i) for one in stacks for i in range(len(one.w))]
    w, lam = np.zeros((12, 3)), np.full((12, 3), np.nan)
    for row, (one, i) in enumerate(rows):
        for k in one.kept[i].tolist():
            if one.w[i, k] > 0:
                w[row, k], lam[row, k] = one.w[i, k], one.lam[i, k]
    found = read_dynamics(tmp_path / "dynamics.json")
    assert (found["sources"], found["patients"], len(found["epochs"])) == (SOURCES, 12, 1)
    (epoch,) = found["epochs"]
    assert epoch["epoch"] == 1 and QUANTILES == (0.05, 0.25, 0.5, 0.75, 0.95)
    for k in range(3):
        users = lam[:, k][w[:, k] > 0]
        assert epoch["w"][k] == pytest.approx(np.quantile(w[:, k], QUANTILES), abs=1e-6)
        assert epoch["kept"][k] == pytest.approx(len(users) / 12, abs=1e-6)
        if len(users):
            assert epoch["lam"][k] == pytest.approx(np.quantile(users, QUANTILES), abs=1e-6)
            assert told[f"lam/{SOURCES[k]}"] == epoch["lam"][k][2]
        assert told[f"w/{SOURCES[k]}"] == epoch["w"][k][2]
    assert 0 < epoch["kept"][0] < 1 and epoch["kept"][2] == 0 and epoch["lam"][2] is None and "lam/site-d" not in told
    own = [sum(w[i, k] * lam[i, k] for k in range(3) if w[i, k] > 0) for i in range(12)]
    others = [sum(w[i, k] * (1 - lam[i, k]) for k in range(3) if w[i, k] > 0) for i in range(12)]
    assert epoch["c_target"] == told["c_target"] == pytest.approx(np.mean(own), abs=1e-6)
    assert epoch["c_sources"] == told["c_sources"] == pytest.approx(np.mean(others), abs=1e-6)
    assert epoch["largest_w"] == told["largest_w"] == pytest.approx(np.mean([max(row) for row in w]), abs=1e-6)


def test_the_last_pass_of_an_epoch_counts(tmp_path):
    """Under Cox's loss every stack passes twice: a patient is noted twice, and counts once."""
    twice, once = (Dynamics(tmp_path / name, SOURCES) for name in ("twice.json", "once.json"))
    note(twice, random_routing(6, 1), people(6))
    note(twice, random_routing(4, 2), people(4))
    twice.end_epoch(1)
    rest = random_routing(6, 1)
    note(once, random_routing(4, 2), people(4))
    note(once, Routing(rest.w[4:], rest.lam[4:], rest.kept[4:]), people(6)[4:])
    once.end_epoch(1)
    assert read_dynamics(tmp_path / "twice.json") == read_dynamics(tmp_path / "once.json")
    assert read_dynamics(tmp_path / "once.json")["patients"] == 6


def test_an_epoch_knows_nothing_of_the_one_before(tmp_path):
    dynamics, alone = (Dynamics(tmp_path / name, SOURCES) for name in ("both.json", "alone.json"))
    note(dynamics, random_routing(9, 1), people(9))
    dynamics.end_epoch(1)
    for one in (dynamics, alone):
        note(one, random_routing(4, 2), people(4))
        one.end_epoch(2)
    both = read_dynamics(tmp_path / "both.json")
    assert [one["epoch"] for one in both["epochs"]] == [1, 2] and both["patients"] == 4
    assert both["epochs"][1:] == read_dynamics(tmp_path / "alone.json")["epochs"]


def test_no_patient_is_in_the_file(tmp_path):
    dynamics = Dynamics(tmp_path / "dynamics.json", SOURCES)
    note(dynamics, random_routing(6, 1), people(6))
    dynamics.end_epoch(1)
    text = (tmp_path / "dynamics.json").read_text()
    assert "secret" not in text and "site-b" in text
    epoch = json.loads(text)["epochs"][0]
    assert {*epoch} == {"epoch", "w", "lam", "kept", "c_target", "c_sources", "largest_w"}
    assert [len(epoch[key]) for key in ("w", "lam", "kept")] == [3, 3, 3], "by source, not by patient"


def test_an_epoch_that_is_done_again_replaces_its_notes(tmp_path):
    path = tmp_path / "dynamics.json"
    first = Dynamics(path, SOURCES)
    for epoch in (1, 2, 3):
        note(first, random_routing(5, epoch), people(5))
        first.end_epoch(epoch)
    before = read_dynamics(path)["epochs"]
    again = Dynamics(path, SOURCES)
    note(again, random_routing(5, 9), people(5))
    again.end_epoch(2)
    after = read_dynamics(path)["epochs"]
    assert [one["epoch"] for one in after] == [1, 2, 3]
    assert after[0] == before[0] and after[2] == before[2] and after[1] != before[1]


def test_notes_of_other_sources_are_not_gone_on_with(tmp_path):
    path = tmp_path / "dynamics.json"
    for sources in (SOURCES, [*SOURCES[:2], "site-e"]):
        dynamics = Dynamics(path, sources)
        note(dynamics, random_routing(5, 1), people(5))
        dynamics.end_epoch(1 if sources == SOURCES else 2)
    found = read_dynamics(path)
    assert found["sources"] == ["site-b", "site-c", "site-e"] and [one["epoch"] for one in found["epochs"]] == [2]


def test_where_nobody_took_notes_there_are_none(tmp_path):
    assert read_dynamics(tmp_path / "dynamics.json") is None


@each(
    ("largest", "epoch"),
    [
        ([], None),
        ([0.5, 0.4, 0.3], None),
        ([0.5, 0.0009, 0.0], 2),
        ([0.5, 0.001, 0.5], None),
        ([0.5, 0.4, 0.001], None),
        ([0.0, 0.0, 0.0], 1),
        ([0.0, 0.0, 0.4], None),
        ([0.0, 0.4, 0.0, 0.0], 3),
        ([0.4, 0.0, 0.0, 0.002, 0.0009], 5),
    ],
)
def test_a_collapse_is_dated_from_where_it_lasts_to_the_end(largest, epoch):
    assert collapsed_in([{"epoch": k, "largest_w": x} for k, x in enumerate(largest, start=1)]) == epoch


def test_a_collapse_is_dated_by_the_notes_epoch_and_not_by_its_place():
    assert collapsed_in([{"epoch": 4, "largest_w": 0.5}, {"epoch": 6, "largest_w": 0.0}]) == 6


class KilledError(Exception):
    pass


SETTINGS = ("training.epochs=5", "training.lr=0.05", "training.batch_bags=4", "steph.K=2", "model.dropout=0.5")
SIZES = [3, 7, 1, 5, 2, 9, 4, 6, 3, 8]


@pytest.fixture(autouse=True)
def checkpoints_are_written_at_every_epoch(monkeypatch):
    monkeypatch.setattr(fedsteph.client.training.checkpoint, "EVERY_SECONDS", 0)


def fitted(path: Path | None, *settings: str, make=Dynamics, checkpoint=None, progress=silent):
    """STEPH's training with notes at ``path``, and its state."""
    recipe = make_recipe(*SETTINGS, *settings)
    target, *sources = make_vectors(recipe, 4).values()
    local = target.applied_to(m0_of(recipe), untrained_model(Architecture.of(recipe.model), 9).head_state())
    dynamics = None if path is None else make(path, SOURCES)
    options = {"gamma": 0.01, "label": "x", "dynamics": dynamics, "run": TrainingRun(CPU, checkpoint, progress)}
    return state_of(fit_steph(make_cohort(SIZES), local, sources, recipe, **options))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    """The notes of a whole training, in one thread as every other."""
    path, before = tmp_path_factory.mktemp("notes") / "dynamics.json", torch.get_num_threads()
    torch.set_num_threads(1)
    fitted(path)
    torch.set_num_threads(before)
    return read_dynamics(path)


def test_every_epoch_of_all_patients_is_noted(uninterrupted):
    assert [one["epoch"] for one in uninterrupted["epochs"]] == [1, 2, 3, 4, 5]
    assert uninterrupted["patients"] == len(SIZES) and uninterrupted["sources"] == SOURCES
    assert len({json.dumps(one["w"]) for one in uninterrupted["epochs"]}) > 2, "something moves"


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_taking_notes_changes_no_weight(tmp_path, loss):
    settings = (f"training.loss={loss}", "training.epochs=2")
    assert equal(fitted(tmp_path / "dynamics.json", *settings), fitted(None, *settings))
    assert len(read_dynamics(tmp_path / "dynamics.json")["epochs"]) == 2


def test_a_training_without_dropout_at_a_rate_of_0_notes_how_its_model_merges(tmp_path):
    """One step an epoch, the first of which has the rate 0: epoch 1's notes are of the untrained model."""
    path, settings = tmp_path / "dynamics.json", ("model.dropout=0.0", "training.batch_bags=20", "training.epochs=1")
    recipe = make_recipe(*SETTINGS, *settings)
    target, *sources = make_vectors(recipe, 4).values()
    local = target.applied_to(m0_of(recipe), untrained_model(Architecture.of(recipe.model), 9).head_state())
    cohort = make_cohort(SIZES)
    model = fit_steph(
        cohort, local, sources, recipe, gamma=0.0, label="x", run=ON_CPU, dynamics=Dynamics(path, SOURCES)
    )
    w = np.zeros((len(SIZES), 3))
    for i in range(len(SIZES)):
        with torch.no_grad():
            routing = model.route(cohort.bag(i).unsqueeze(0))
        for k in routing.kept[0].tolist():
            w[i, k] = float(routing.w[0, k])
    assert w.max() > 0.01
    (epoch,) = read_dynamics(path)["epochs"]
    for k in range(3):
        assert epoch["w"][k] == pytest.approx(np.quantile(w[:, k], QUANTILES), abs=2e-6)


@pytest.mark.parametrize("at", [1, 4])
def test_a_training_killed_after_an_epoch_ends_with_the_same_notes(tmp_path, uninterrupted, at):
    path, checkpoint = tmp_path / "dynamics.json", tmp_path / "steph.ckpt"

    def kill(epoch: int, total: int) -> None:
        if epoch == at:
            raise KilledError

    with pytest.raises(KilledError):
        fitted(path, checkpoint=checkpoint, progress=kill)
    assert checkpoint.exists() and len(read_dynamics(path)["epochs"]) == at
    seen = []
    state = fitted(path, checkpoint=checkpoint, progress=lambda epoch, total: seen.append(epoch))
    assert seen == list(range(at + 1, 6)), "it went on, and did not begin again"
    assert read_dynamics(path) == uninterrupted and equal(state, fitted(None))


class KilledInAStep(Dynamics):
    """Dies in the second step of the third epoch: three steps of an epoch have one stack or more each."""

    ended = 0
    noted = 0

    def note(self, ids, routing) -> None:
        self.noted += self.ended == 2
        if self.noted == 3:
            raise KilledError
        super().note(ids, routing)

    def end_epoch(self, epoch):
        self.ended = epoch
        return super().end_epoch(epoch)


def test_a_training_killed_within_an_epoch_does_it_again_with_the_same_notes(tmp_path, uninterrupted):
    path, checkpoint = tmp_path / "dynamics.json", tmp_path / "steph.ckpt"
    with pytest.raises(KilledError):
        fitted(path, checkpoint=checkpoint, make=KilledInAStep)
    assert len(read_dynamics(path)["epochs"]) == 2
    fitted(path, checkpoint=checkpoint)
    assert read_dynamics(path) == uninterrupted


class KilledBeforeItsNotes(Dynamics):
    """Dies when the third epoch's checkpoint is written and its notes are not."""

    def end_epoch(self, epoch):
        if epoch == 3:
            raise KilledError
        return super().end_epoch(epoch)


def test_at_most_the_epoch_that_it_was_killed_in_is_missing(tmp_path, uninterrupted):
    path, checkpoint = tmp_path / "dynamics.json", tmp_path / "steph.ckpt"
    with pytest.raises(KilledError):
        fitted(path, checkpoint=checkpoint, make=KilledBeforeItsNotes)
    fitted(path, checkpoint=checkpoint)
    rest = [one for one in uninterrupted["epochs"] if one["epoch"] != 3]
    assert read_dynamics(path) == {**uninterrupted, "epochs": rest}


def test_a_training_that_begins_again_notes_the_same_numbers_again(tmp_path, uninterrupted):
    """Its checkpoint is lost and its notes are not."""
    path = tmp_path / "dynamics.json"
    with pytest.raises(KilledError):
        fitted(path, make=KilledBeforeItsNotes)
    fitted(path)
    assert read_dynamics(path) == uninterrupted


def test_every_epoch_is_told_to_who_listens_and_no_patient_is(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("fedsteph.client.training.epoch_log._listeners", [lambda *words: told.append(words)])
    with to_tensorboard(None):
        fitted(tmp_path / "dynamics.json", "training.epochs=2")
    notes = read_dynamics(tmp_path / "dynamics.json")["epochs"]
    by_epoch = {epoch: scalars for name, epoch, scalars in told if name == "STEPH, x" and "largest_w" in scalars}
    assert by_epoch.keys() == {1, 2}
    for one in notes:
        scalars = by_epoch[one["epoch"]]
        assert scalars["w/site-c"] == one["w"][1][2] and scalars["c_target"] == one["c_target"]
        assert {key.partition("/")[2] for key in scalars if "/" in key} <= {*SOURCES}
    told.clear()
    fitted(None, "training.epochs=2")
    assert told == [], "nobody asked for notes"
