"""The loss around a merge: every point by a model of its own, its axes, its sampling, and what is drawn of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from client_builders import CPU, MemoryCohort, Spy, equal, make_cohort, state_of
from report_builders import WHO, drawn, epoch_notes, heading, lines_by_label, make_steph, squeezed

import fedsteph.client.report.developers.landscape
from fedsteph.client.report.developers.landscape import Budget, Landscape, draw, landscape
from fedsteph.client.steph.model import Steph
from fedsteph.client.training.batch import predict_hazards
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import bin_of, nll

ALL = Budget(grid=4, patients=100, instances=100)
ALPHA = 0.3
NOTES = {
    "sources": ["s0", "s1", "s2"],
    "patients": 9,
    "epochs": [
        epoch_notes(1, [], [], c_target=0.9, c_sources=0.1),
        epoch_notes(2, [], [], c_target=1.9, c_sources=-0.2),
        epoch_notes(3, [], [], c_target=0.7, c_sources=0.3),
    ],
}


def parts() -> dict[str, MemoryCohort]:
    return {
        "training": make_cohort([3, 7, 1, 4, 9, 2, 5, 5, 6], seed=1),
        "test": make_cohort([2, 8, 1, 4], seed=2, events=[1, 0, 1, 0]),
    }


@pytest.fixture(scope="module")
def model() -> Steph:
    return make_steph("steph.K=2")


@pytest.fixture(scope="module")
def found(model) -> Landscape:
    return landscape(model, parts(), NOTES, alpha=ALPHA, device=CPU, budget=ALL)


def bag_by_bag(model: Steph, cohort: MemoryCohort) -> tuple[float, np.ndarray]:
    """Mean coefficients of the target and of each source, by loops over patients and kept sources."""
    own, others = 0.0, np.zeros(model.mixture.n_sources)
    with torch.no_grad():
        for i in range(len(cohort)):
            routing = model.route(cohort.bag(i).unsqueeze(0))
            for k in routing.kept[0].tolist():
                w, lam = float(routing.w[0, k]), float(routing.lam[0, k])
                own += w * lam / len(cohort)
                others[k] += w * (1 - lam) / len(cohort)
    return own, others


def abmil_at(model: Steph, a: float, b: float, weights: np.ndarray) -> BaseModel:
    """A whole model of its own: ``theta_0 + a tau_t + b sum_k weights_k tau_k``, under STEPH's head."""
    rows = model.mixture.stack.double().numpy()
    merged = model.mixture.theta_0.double().numpy() + a * rows[0] + b * (weights @ rows[1:])
    architecture, state, at = model.mixture.architecture, {}, 0
    for name, shape in architecture.encoder_shapes.items():
        size = int(np.prod(shape))
        state[name] = torch.from_numpy(merged[at : at + size].reshape(shape)).float()
        at += size
    assert at == len(merged)
    plain = BaseModel(architecture)
    plain.load_state_dict({**state, **{f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}})
    return plain


def loss_of(plain: BaseModel, cohort: MemoryCohort) -> float:
    hazards = torch.from_numpy(predict_hazards(plain, cohort, CPU))
    bins = torch.from_numpy(bin_of(cohort.times, 32))
    return float(nll(hazards, bins, torch.from_numpy(cohort.events.copy()), ALPHA).mean())


def test_every_point_is_the_loss_of_a_model_with_those_weights(model, found):
    _, others = bag_by_bag(model, parts()["training"])
    assert (others > 0).sum() >= 2, "the direction is of several sources"
    weights = others / others.sum()
    assert found.loss.keys() == {"training", "test"}
    for i, a in enumerate(found.a):
        for j, b in enumerate(found.b):
            plain = abmil_at(model, float(a), float(b), weights)
            for part, cohort in parts().items():
                assert found.loss[part][i, j] == pytest.approx(loss_of(plain, cohort), rel=1e-5), (part, a, b)
    assert all(np.ptp(values) > 0.01 for values in found.loss.values())


def test_the_end_is_the_mean_merge_of_the_training_patients(model, found):
    own, others = bag_by_bag(model, parts()["training"])
    assert found.end == pytest.approx((own, others.sum()), abs=1e-6) and min(found.end) > 0


def test_the_path_is_the_notes(found):
    assert found.path.tolist() == [[0.9, 0.1], [1.9, -0.2], [0.7, 0.3]]


def test_without_notes_there_is_no_path(model):
    for notes in (None, {**NOTES, "epochs": []}):
        assert landscape(model, parts(), notes, alpha=ALPHA, device=CPU, budget=Budget(2)).path.shape == (0, 2)


def test_the_axes_are_even_and_cover_m0_a_whole_vector_the_path_and_the_end(found):
    for i, axis in enumerate((found.a, found.b)):
        assert len(axis) == 4 and np.allclose(np.diff(axis), axis[1] - axis[0]) and axis[1] > axis[0]
        for inside in (0.0, 1.0, found.end[i], *found.path[:, i]):
            assert axis[0] <= inside <= axis[-1]
    assert found.a[-1] > 1.9, "there is room behind the path"


def test_without_a_path_the_axes_go_from_m0_to_beyond_a_whole_vector(model):
    one = landscape(model, parts(), None, alpha=ALPHA, device=CPU, budget=Budget(3))
    assert max(one.end) < 1.3 and one.a.tolist() == one.b.tolist() == [0.0, 0.75, 1.5]


def test_a_collapsed_model_ends_at_m0_and_its_sources_count_alike(model):
    collapsed = make_steph("steph.K=2")
    with torch.no_grad():
        for parameter in collapsed.hypernetwork.head_agg.parameters():
            parameter.zero_()
    one = landscape(collapsed, parts(), None, alpha=ALPHA, device=CPU, budget=replace(ALL, grid=3))
    assert one.end == (0.0, 0.0)
    plain = abmil_at(collapsed, 0.75, 1.5, np.full(3, 1 / 3))
    assert one.loss["test"][1, 2] == pytest.approx(loss_of(plain, parts()["test"]), rel=1e-5)


def test_it_is_a_function_of_its_input_and_leaves_the_model_as_it_was(model):
    """Whatever the random state, and whether or not the model was in training; the seed of a sample is its own."""
    before, budget = state_of(model), Budget(2, patients=3, instances=2)
    first = landscape(model, parts(), NOTES, alpha=ALPHA, device=CPU, budget=budget)
    model.train()
    torch.manual_seed(99)
    again = landscape(model, parts(), NOTES, alpha=ALPHA, device=CPU, budget=budget)
    for part, values in first.loss.items():
        assert np.array_equal(again.loss[part], values)
    assert np.array_equal(again.a, first.a) and again.end == first.end and equal(state_of(model), before)


def test_progress_is_told_up_to_its_end(model):
    told = []
    landscape(model, parts(), None, alpha=ALPHA, device=CPU, budget=Budget(3), progress=lambda *done: told.append(done))
    assert told == [(k, 9) for k in range(1, 10)]


def test_no_more_is_looked_at_than_the_budget_has(model, monkeypatch):
    """Three patients a part and two instances of each, all of them real, none twice."""
    spy = Spy(monkeypatch, fedsteph.client.report.developers.landscape, "encode")
    some = landscape(model, parts(), None, alpha=ALPHA, device=CPU, budget=Budget(2, patients=3, instances=2))
    assert some.patients == {"training": 3, "test": 3} and some.instances == 2 and len(spy.calls) == 2 * 2 * 2
    for k, call in enumerate(spy.calls):
        _, _, bags, mask = call.args
        cohort = parts()["training" if k % 2 == 0 else "test"]
        rows = {tuple(x): i for i in range(len(cohort)) for x in cohort.bag(i).tolist()}
        assert len(bags) == 3 and mask.shape == bags.shape[:2] and bags.shape[1] <= 2
        seen = [[tuple(x) for x in bag[real].tolist()] for bag, real in zip(bags, mask, strict=True)]
        patients = [{rows[x] for x in bag} for bag in seen]
        assert all(len(one) == 1 for one in patients) and len(set.union(*patients)) == 3
        for bag, (patient,) in zip(seen, patients, strict=True):
            assert len({*bag}) == len(bag) == min(2, len(cohort.bag(patient)))


def test_a_sample_is_drawn_at_random_and_not_from_the_beginning(model, monkeypatch):
    """Of 60 patients of 30 instances each, 10 and 5: not the first 10, and not the first 5."""
    cohort = make_cohort([30] * 60)
    for i in range(60):
        cohort.bag(i)[:, 1], cohort.bag(i)[:, 2] = float(i), torch.arange(30.0)
    spy = Spy(monkeypatch, fedsteph.client.report.developers.landscape, "encode")
    landscape(model, {"training": cohort}, None, alpha=ALPHA, device=CPU, budget=Budget(2, patients=10, instances=5))
    bags = spy.calls[0].args[2]
    assert max(bags[:, 0, 1].tolist()) > 9 and bags[:, :, 2].max() > 4
    assert len({tuple(bag[:, 2].tolist()) for bag in bags}) > 1
    assert all(torch.equal(call.args[2], bags) for call in spy.calls), "the same at every point"


def test_a_bag_is_not_changed_by_being_sampled(model):
    cohort = parts()["training"]
    before = [cohort.bag(i).clone() for i in range(len(cohort))]
    landscape(model, {"training": cohort}, None, alpha=ALPHA, device=CPU, budget=Budget(2, patients=3, instances=2))
    assert all(torch.equal(cohort.bag(i), bag) for i, bag in enumerate(before))


def test_an_empty_test_part_is_left_out(model, found):
    nobody = make_cohort([1]).subset([])
    one = landscape(
        model, {"training": parts()["training"], "test": nobody}, NOTES, alpha=ALPHA, device=CPU, budget=ALL
    )
    assert one.loss.keys() == one.patients.keys() == {"training"}
    assert one.loss["training"] == pytest.approx(found.loss["training"], rel=1e-6)
    figure = drawn(draw("a", one, WHO))
    titles = [panel.get_title(loc="left") for panel in figure.axes if panel.get_title(loc="left")]
    assert len(titles) == 2 and titles[0].startswith("training: n = 9")


def plain_smooth(values: np.ndarray) -> np.ndarray:
    """A Gaussian of one step, cut at four, along one axis and then along the other; the edge goes on outside."""
    kernel = [float(np.exp(-(d**2) / 2)) for d in range(-4, 5)]
    kernel = [weight / sum(kernel) for weight in kernel]

    def along_rows(table: np.ndarray) -> np.ndarray:
        n, smooth = table.shape[1], np.zeros_like(table)
        for row in range(len(table)):
            for j in range(n):
                for d, weight in zip(range(-4, 5), kernel, strict=True):
                    smooth[row, j] += weight * table[row, min(max(j + d, 0), n - 1)]
        return smooth

    return along_rows(along_rows(values).T).T


def test_what_is_drawn_is_smoothed_by_a_gaussian_of_one_step(found):
    for part, values in found.loss.items():
        np.testing.assert_allclose(found.smooth(part), plain_smooth(values), rtol=1e-9)


def test_a_single_peak_is_spread_by_hand():
    """Far from every edge the centre of a peak of 1 keeps the square of the kernel's middle."""
    peak = np.zeros((11, 11))
    peak[5, 5] = 1.0
    axis = np.linspace(0, 1, 11)
    smooth = Landscape(axis, axis, {"training": peak}, {"training": 1}, 1, np.zeros((0, 2)), (0, 0)).smooth("training")
    middle = 1 / sum(np.exp(-(d**2) / 2) for d in range(-4, 5))
    assert smooth[5, 5] == pytest.approx(middle**2)
    assert smooth[5, 6] == smooth[6, 5] == pytest.approx(middle**2 * np.exp(-0.5))
    assert smooth.sum() == pytest.approx(1.0) and smooth[5, 0] == 0


@pytest.fixture(scope="module")
def picture(found):
    return draw("site-a.fold-0.landscape", found, WHO)


def panels_of(figure) -> dict[str, object]:
    return {panel.get_title(loc="left").partition(":")[0]: panel for panel in figure.axes if panel.lines}


def test_colours_are_the_smoothed_loss_at_its_place(found, picture):
    panels = panels_of(drawn(picture))
    assert list(panels) == ["training", "test", "training's path, enlarged"]
    for part in ("training", "test"):
        mesh = panels[part].collections[0]
        drawn_values = np.asarray(mesh.get_array()).reshape(len(found.b), len(found.a))
        places = mesh.get_coordinates()
        for i, a in enumerate(found.a):
            for j, b in enumerate(found.b):
                assert places[j, i].tolist() == [a, b] and drawn_values[j, i] == found.smooth(part)[i, j]
        assert panels[part].get_xlim() == (found.a[0], found.a[-1])
        assert panels[part].get_ylim() == (found.b[0], found.b[-1])


def test_path_end_and_beginnings_are_at_their_places(found, picture):
    panels = panels_of(drawn(picture))
    for part in ("training", "test"):
        lines = {label: line.get_xydata().tolist() for label, line in lines_by_label(panels[part]).items()}
        assert lines == {
            "training, by epoch": found.path.tolist(),
            "the trained model's mean merge": [list(found.end)],
            "the local encoder": [[1, 0]],
            "M0": [[0, 0]],
        }
    path, end = panels["training's path, enlarged"].lines
    assert path.get_xydata().tolist() == found.path.tolist() and end.get_xydata().tolist() == [list(found.end)]
    words = {text.get_text(): tuple(text.xy) for text in panels["training's path, enlarged"].texts}
    assert words == {"epoch 1": (0.9, 0.1), "epoch 3": (0.7, 0.3)}


def test_whose_it_is_and_what_the_axes_say(picture):
    figure = drawn(picture)
    panels = panels_of(figure)
    assert squeezed(WHO) in squeezed(heading(figure))
    for panel in panels.values():
        assert panel.get_xlabel() == "coefficient of the target's vector"
        assert panel.get_ylabel() == "coefficient of the sources"
    titles = [panel.get_title(loc="left") for panel in panels.values()]
    assert titles[:2] == ["training: n = 9, at most 100 instances each", "test: n = 4, at most 100 instances each"]
    bars = [axes.get_ylabel() for axes in figure.axes if axes not in panels.values()]
    assert bars == ["NLL, nats per patient"] * 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["training, by epoch", "the trained model's mean merge", "the local encoder", "M0"]
    assert "Gaussian of 1 step" in picture.note


def test_the_table_has_every_point_as_computed_and_as_drawn(found, picture):
    assert picture.numbers.header == ["target", "sources", "training", "training, smooth", "test", "test, smooth"]
    smooth = {part: plain_smooth(values) for part, values in found.loss.items()}
    expected = [
        [f"{a:.4f}", f"{b:.4f}"]
        + [f"{table[i, j]:.5f}" for part in ("training", "test") for table in (found.loss[part], smooth[part])]
        for i, a in enumerate(found.a)
        for j, b in enumerate(found.b)
    ]
    assert picture.numbers.rows == expected


def test_without_a_path_there_is_a_panel_for_every_part_alone(found):
    picture = draw("a", replace(found, path=np.zeros((0, 2))), WHO)
    panels = panels_of(drawn(picture))
    assert list(panels) == ["training", "test"] and "training, by epoch" not in lines_by_label(panels["training"])
