"""A site's rounds of FedAvg and FedProx: where each begins, what leaves and what stays, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from client_builders import CPU, Spy, equal, m0_of, make_vectors, make_workspace
from each_case import each

import fedsteph.client.sharing.averaging_rounds
from fedsteph.client.models.model_file import load_base
from fedsteph.client.sharing.averaging_rounds import keep_globals, kept_globals, read_global, train_round
from fedsteph.client.sharing.outgoing import as_received
from fedsteph.client.site.workspace import Workspace
from fedsteph.client.training.batch import batches
from fedsteph.common.errors import ProtocolError, VectorError, VectorFileError, VectorMismatchError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.vector_file import write_vector

CAP = 250.0
METHODS = ("fedavg", "fedprox")
STILL = ["training.lr=1e-12", "training.weight_decay=0.0"]  # a training that moves nothing that can be seen
QUICK = ["training.lr=0.01", "comparators.rounds=3", "model.n_bins=6"]


def rounds_of(workspace: Workspace) -> Path:
    return workspace.folder / "rounds" / "run-1"


def ask(workspace: Workspace, round_: int, encoders=None, method: str = "fedavg", cap: float = CAP) -> dict[str, bytes]:
    return train_round(workspace, rounds_of(workspace), method, round_, encoders or {}, cap)


def globals_of(workspace: Workspace, seed: int = 0, scale: float = 0.1) -> dict[str, bytes]:
    """One global encoder per fold, far from M0."""
    vectors = [*make_vectors(workspace.recipe, seed + 2, scale).values()][seed:]
    return {str(fold): write_vector(vector) for fold, vector in enumerate(vectors)}


def read(workspace: Workspace, content: bytes) -> TaskVector:
    return read_global(workspace, content, 1e9)


def told(content: bytes) -> tuple[dict, bytes]:
    """A vector file as what its header says and the numbers behind it; the order of the header's keys may vary."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def same(a: dict[str, bytes], b: dict[str, bytes]) -> bool:
    return a.keys() == b.keys() and all(told(a[fold]) == told(b[fold]) for fold in a)


def model_of(workspace: Workspace, fold: int, round_: int, method: str = "fedavg"):
    return load_base(rounds_of(workspace) / f"{method}_fold_{fold}" / f"round_{round_}.safetensors")


@dataclass(frozen=True)
class Asked:
    """A site after rounds 0 and 1 of both methods; not to be changed."""

    workspace: Workspace
    rounds: dict[str, list[dict[str, bytes]]]  # what it answered
    fits: dict[str, list]  # its trainings: folds 0 and 1 of round 0, then of round 1


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Asked:
    settings = [*QUICK, "comparators.local_epochs=2", "training.warmup_epochs=2"]
    workspace = make_workspace(tmp_path_factory.mktemp("asked"), *settings, patients=12)
    found = Asked(workspace, {}, {})
    with pytest.MonkeyPatch.context() as patch:
        for method in METHODS:
            spy = Spy(patch, fedsteph.client.sharing.averaging_rounds, "fit_survival")
            found.rounds[method] = [ask(workspace, k, globals_of(workspace) if k else {}, method) for k in (0, 1)]
            found.fits[method] = [*spy.calls]
    return found


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Workspace:
    """A site after round 0 of FedAvg, for what is refused and leaves nothing."""
    workspace = make_workspace(tmp_path_factory.mktemp("begun"), *QUICK, patients=12)
    ask(workspace, 0)
    return workspace


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return make_workspace(tmp_path, *QUICK, patients=12)


@pytest.fixture
def still(tmp_path) -> Workspace:
    return make_workspace(tmp_path, *QUICK, *STILL, patients=12)


@pytest.fixture
def fits(monkeypatch) -> list:
    """The trainings of a test."""
    return Spy(monkeypatch, fedsteph.client.sharing.averaging_rounds, "fit_survival").calls


def test_rounds_are_float32_whatever_the_recipe_shares_vectors_in(workspace, tmp_path):
    """And the whole encoder: the server averages that, and what is reduced in every round drifts."""
    less = ("sharing.dtype=bfloat16", "sharing.layers=attention", "sharing.rank=1")
    half = make_workspace(tmp_path / "half", *QUICK, *less, patients=12)
    assert same(ask(half, 0), ask(workspace, 0))
    found = ask(half, 1, globals_of(half))
    assert same(found, ask(workspace, 1, globals_of(workspace)))
    for content in found.values():
        assert not torch.equal(read(half, content).flat(), as_received(read(half, content), half.recipe.sharing).flat())


@pytest.mark.parametrize("method", METHODS)
def test_round_0_begins_at_m0_and_a_later_one_at_the_global_encoder_of_its_fold(still, method):
    found = ask(still, 0, method=method)
    assert set(found) == {"0", "1"} and all(read(still, content).norm < 1e-6 for content in found.values())
    # The head begins at the empirical hazard of the fold's training part, which M0's own head is not.
    first, second = (model_of(still, fold, 0, method).head_state()["head.bias"] for fold in (0, 1))
    assert float((first - m0_of(still.recipe).head.bias.detach()).abs().max()) > 0.5
    assert not torch.allclose(first, second, atol=1e-6)
    given = globals_of(still)
    found = ask(still, 1, given, method=method)
    for fold in ("0", "1"):
        start, end = read(still, given[fold]), read(still, found[fold])
        assert start.norm > 1 and (end - start).norm < 1e-4
    assert (read(still, found["0"]) - read(still, given["1"])).norm > 1


def test_every_round_trains_the_encoder_and_the_head(asked):
    workspace, given = asked.workspace, globals_of(asked.workspace)
    first, second = asked.rounds["fedavg"]
    for fold in ("0", "1"):
        assert read(workspace, first[fold]).norm > 0.01
        assert 0.01 < (read(workspace, second[fold]) - read(workspace, given[fold])).norm < 1
    assert not equal(*(model_of(workspace, 0, round_).head_state() for round_ in (0, 1)))


def test_an_update_holds_the_eight_encoder_tensors_and_nothing_of_the_head(asked):
    shapes = Architecture.of(asked.workspace.recipe.model).encoder_shapes
    for round_, updates in enumerate(asked.rounds["fedavg"]):
        for fold, content in updates.items():
            header, numbers = told(content)
            assert set(header) == {*shapes, "__metadata__"} and len(shapes) == 8
            assert set(header["__metadata__"]) == {"format", "architecture", "m0"}
            assert len(numbers) == 4 * sum(int(np.prod(shape)) for shape in shapes.values())
            head = model_of(asked.workspace, int(fold), round_).head_state()
            for tensor in head.values():
                plain = tensor.numpy().astype("<f4").tobytes()
                assert len(plain) >= 16 and plain[:16] not in content


def test_the_head_goes_on_from_the_last_round(still):
    """A head of round 0 that can be told apart, and a round 1 that moves nothing."""
    ask(still, 0)
    marked = {}
    for fold in (0, 1):
        path = rounds_of(still) / f"fedavg_fold_{fold}" / "round_0.safetensors"
        model = load_base(path)
        with torch.no_grad():
            model.head.weight.add_(0.5 + fold)
            model.head.bias.sub_(0.25 + fold)
        fedsteph.client.sharing.averaging_rounds.save_base(path, model, m0_sha256=str(still.recipe.model.m0_sha256))
        marked[fold] = model.head_state()
    ask(still, 1, globals_of(still))
    for fold in (0, 1):
        after = model_of(still, fold, 1).head_state()
        for name, tensor in marked[fold].items():
            torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_each_round_s_training_is_the_recipe_s_for_the_local_epochs_and_sees_no_test_patient(asked):
    splits = asked.workspace.splits
    for calls in asked.fits.values():
        for call, fold, round_ in zip(calls, (0, 1, 0, 1), (0, 0, 1, 1), strict=True):
            training = call.args[3].training
            assert (training.epochs, training.warmup_epochs, training.lr) == (2, 0.0, 0.01)
            assert call.kwargs["fresh_head"] == (round_ == 0)
            ids = {patient.id for patient in call.args[2].patients}
            assert ids == {*splits[fold].train} and not ids & {*splits[fold].test}
    assert len({call.kwargs["seed"] for calls in asked.fits.values() for call in calls}) == 8


def test_fedprox_s_penalty_by_hand(tmp_path, fits):
    """``mu / 2`` times the squared distance from the round's global encoder, once for every bag of a step."""
    mu = 0.7
    workspace = make_workspace(tmp_path, *QUICK, *STILL, f"comparators.proximal_mu={mu}", patients=12)
    given = globals_of(workspace)
    ask(workspace, 0, method="fedprox")
    ask(workspace, 1, given, method="fedprox")
    for call, fold, round_ in zip(fits, ("0", "1", "0", "1"), (0, 0, 1, 1), strict=True):
        model, forward, cohort = call.args[:3]
        start = m0_of(workspace.recipe).encoder_state()
        if round_:
            start = {n: w + read(workspace, given[fold]).tensors[n] for n, w in start.items()}
        _, batch = next(batches(cohort, range(4), 6, CPU))
        before = forward(batch).penalty
        torch.testing.assert_close(before, torch.zeros(len(batch.times)), rtol=0, atol=1e-6)
        with torch.no_grad():
            for i, tensor in enumerate(model.encoder_state().values()):
                tensor.add_(0.1 * (i + 1))
            model.head.weight.add_(7.0)  # of the head nothing is asked
        distance = sum(float((w.detach() - start[n]).double().square().sum()) for n, w in model.encoder_state().items())
        penalty = forward(batch).penalty
        assert penalty.shape == (len(batch.times),) and distance > 1
        torch.testing.assert_close(penalty.detach(), torch.full_like(penalty, mu / 2 * distance), rtol=1e-4, atol=0)
        gradient = torch.autograd.grad(penalty.mean(), model.embed.weight)[0]
        expected = mu * (model.embed.weight.detach() - start["embed.weight"].detach())
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_fedavg_has_no_penalty(asked):
    model, forward, cohort = asked.fits["fedavg"][0].args[:3]
    with torch.no_grad():
        model.embed.weight.add_(1.0)
    _, batch = next(batches(cohort, range(4), 6, CPU))
    assert not forward(batch).penalty.any()


def test_a_strong_pull_keeps_a_site_at_the_global_encoder(tmp_path):
    far = []
    for mu in (0.0, 100.0):
        settings = [*QUICK, f"comparators.proximal_mu={mu}", "comparators.local_epochs=15"]
        workspace = make_workspace(tmp_path, *settings, name=f"mu{int(mu)}", patients=12)
        ask(workspace, 0, method="fedprox")
        given = globals_of(workspace)
        found = ask(workspace, 1, given, method="fedprox")
        far.append((read(workspace, found["0"]) - read(workspace, given["0"])).norm)
    assert far[1] < 0.2 * far[0]


@pytest.mark.parametrize("method", METHODS)
def test_under_cox_a_round_trains_too(tmp_path, method):
    workspace = make_workspace(tmp_path, *QUICK, "training.loss=cox", patients=12)
    for round_, given in ((0, {}), (1, globals_of(workspace))):
        found = ask(workspace, round_, given, method)
        for fold in (0, 1):
            start = read(workspace, given[str(fold)]) if given else 0.0 * read(workspace, found["0"])
            assert (read(workspace, found[str(fold)]) - start).norm > 0.01
            weight = model_of(workspace, fold, round_, method).head.weight.detach()
            assert float((weight - weight[0]).abs().max()) < 1e-4


def test_a_round_that_is_sent_again_is_found_done(asked, fits):
    """And is not trained again from an encoder of the server's choice."""
    workspace, (first, second) = asked.workspace, asked.rounds["fedavg"]
    assert same(ask(workspace, 0), first) and same(ask(workspace, 1, globals_of(workspace)), second)
    with pytest.raises(ProtocolError, match="begins at another encoder"):
        ask(workspace, 1, globals_of(workspace, seed=3))
    assert fits == []


def test_a_round_of_another_run_is_another_round(asked, fits):
    workspace = asked.workspace
    again = train_round(workspace, workspace.folder / "rounds" / "run-2", "fedavg", 0, {}, CAP)
    # And a function of the data, the recipe and its seed.
    assert len(fits) == 2 and same(again, asked.rounds["fedavg"][0])


def test_the_rest_of_an_interrupted_round_is_trained(workspace, fits):
    whole = ask(workspace, 0)
    (rounds_of(workspace) / "fedavg_fold_1" / "round_0.safetensors").unlink()
    fits.clear()
    assert same(ask(workspace, 0), whole)
    assert [{p.id for p in call.args[2].patients} for call in fits] == [{*workspace.splits[1].train}]


def test_a_skipped_round_and_encoders_in_round_0_are_refused(workspace, fits):
    with pytest.raises(ProtocolError, match="one encoder per fold"):
        ask(workspace, 0, globals_of(workspace))
    for round_ in (1, 2):
        with pytest.raises(ProtocolError, match="skips a round"):
            ask(workspace, round_, globals_of(workspace))
    ask(workspace, 0)
    with pytest.raises(ProtocolError, match="skips a round"):
        ask(workspace, 2, globals_of(workspace))
    with pytest.raises(ProtocolError, match="skips a round"):
        ask(workspace, 1, globals_of(workspace), method="fedprox")
    assert len(fits) == 2


def test_old_rounds_are_let_go(workspace):
    ask(workspace, 0)
    for round_ in (1, 2):
        ask(workspace, round_, globals_of(workspace))
    kept = sorted(path.name for path in (rounds_of(workspace) / "fedavg_fold_0").iterdir())
    assert kept == [f"round_{k}.{kind}" for k in (1, 2) for kind in ("safetensors", "start")]


@each("names", [(), ("0",), ("1",), ("0", "1", "2"), ("0", "one"), ("00", "1")])
def test_not_one_encoder_per_fold_is_refused(begun, fits, names):
    given = dict.fromkeys(names, globals_of(begun)["0"])
    with pytest.raises(ProtocolError, match="one encoder per fold"):
        ask(begun, 1, given)
    with pytest.raises(ProtocolError, match="one encoder per fold"):
        keep_globals(begun, rounds_of(begun), "fedavg", given, CAP)
    assert fits == []


def with_value(workspace: Workspace, value: float) -> bytes:
    vector = read(workspace, globals_of(workspace)["0"])
    tensors = {name: tensor.clone() for name, tensor in vector.tensors.items()}
    tensors["embed.weight"][0, 0] = value
    return write_vector(TaskVector(vector.architecture, vector.m0_sha256, tensors))


def of_another_m0(workspace: Workspace) -> bytes:
    vector = read(workspace, globals_of(workspace)["0"])
    return write_vector(TaskVector(vector.architecture, "1" * 64, vector.tensors))


def with_a_head(workspace: Workspace) -> bytes:
    content = globals_of(workspace)["0"]
    tensors = safetensors.torch.load(content)
    tensors["head.weight"] = torch.zeros(6, 8)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    return safetensors.torch.save(tensors, metadata)


def of_another_width(workspace: Workspace) -> bytes:
    shapes = Architecture(7, 8, 6, 6).encoder_shapes
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return write_vector(TaskVector(Architecture(7, 8, 6, 6), str(workspace.recipe.model.m0_sha256), tensors))


POISON = {
    "NaN": (lambda w: with_value(w, float("nan")), VectorFileError, "NaN or Inf"),
    "infinite": (lambda w: with_value(w, float("inf")), VectorFileError, "NaN or Inf"),
    "too long": (lambda w: with_value(w, 251.0), VectorFileError, "above the cap"),
    "another M0": (of_another_m0, VectorMismatchError, "another M0"),
    "another width": (of_another_width, VectorMismatchError, "another architecture"),
    "a head": (with_a_head, VectorFileError, "unexpected tensor"),
    "cut": (lambda w: globals_of(w)["0"][:-4], VectorFileError, "fill the file"),
    "garbage": (lambda w: b"garbage" * 99, VectorFileError, "truncated or its header"),
    "nothing": (lambda w: b"", VectorFileError, "truncated"),
}


@each(("make", "error", "said"), POISON.values())
@each("fold", ["0", "1"])
def test_a_poisoned_global_encoder_is_refused_and_nothing_is_kept_of_it(begun, make, error, said, fold):
    folder = rounds_of(begun) / f"fedavg_fold_{fold}"
    before = {*folder.iterdir()}
    given = globals_of(begun) | {fold: make(begun)}
    with pytest.raises(error, match=said) as caught:
        ask(begun, 1, given)
    assert isinstance(caught.value, VectorError) and "global encoder" in str(caught.value)
    with pytest.raises(error, match=said):
        keep_globals(begun, rounds_of(begun), "fedavg", given, CAP)
    assert {*folder.iterdir()} == before
    assert not [path for path in rounds_of(begun).rglob("*") if path.name == "global.safetensors"]


def test_the_lower_cap_holds(begun):
    given = globals_of(begun)
    with pytest.raises(VectorFileError, match="above the cap"):
        ask(begun, 1, given, cap=0.99 * read(begun, given["0"]).norm)


def test_the_result_is_kept_by_method_and_fold_and_read_back(workspace):
    assert kept_globals(workspace, rounds_of(workspace), CAP) == [{}, {}]
    avg, prox = globals_of(workspace), globals_of(workspace, seed=4)
    keep_globals(workspace, rounds_of(workspace), "fedavg", avg, CAP)
    keep_globals(workspace, rounds_of(workspace), "fedprox", prox, CAP)
    found = kept_globals(workspace, rounds_of(workspace), CAP)
    assert [set(fold) for fold in found] == [{"fedavg", "fedprox"}] * 2
    for fold, kept in enumerate(found):
        for method, given in (("fedavg", avg), ("fedprox", prox)):
            assert equal(dict(kept[method].tensors), dict(read(workspace, given[str(fold)]).tensors))
    assert kept_globals(workspace, workspace.folder / "rounds" / "run-2", CAP) == [{}, {}]


def test_what_is_kept_is_screened_again_when_it_is_read(workspace):
    keep_globals(workspace, rounds_of(workspace), "fedavg", globals_of(workspace), CAP)
    (rounds_of(workspace) / "fedavg_fold_1" / "global.safetensors").write_bytes(with_value(workspace, float("nan")))
    with pytest.raises(VectorFileError, match="NaN"):
        kept_globals(workspace, rounds_of(workspace), CAP)
