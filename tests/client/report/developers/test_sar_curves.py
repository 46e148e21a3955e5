"""SAR by layer, source and lam: known answers, a second way to compute it, and the drawn lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from client_builders import m0_of, make_recipe, make_vectors
from each_case import each
from method_builders import by_projection
from report_builders import WHO, drawn, heading, lines_by_label, squeezed

from fedsteph.client.methods.alignment import alignment
from fedsteph.client.report.developers.sar import LAM, SarCurves, draw, sar_curves
from fedsteph.client.steph.mixture import Mixture
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector

ORACLE = Path(__file__).parents[3] / "oracles" / "sar.safetensors"
KNOWN = pytest.mark.parametrize(("name", "sar", "rank"), [("a", 0.98254106, 6), ("b", 0.97611067, 5), ("c", 1.0, 1)])
LAYERS = ("embed.weight", "attention_V.weight", "attention_U.weight")
SOURCES = ("site-b", "site-c")


@KNOWN
def test_known_answers_and_their_ranks(name, sar, rank):
    matrices = safetensors.torch.load_file(ORACLE)
    found = alignment(matrices[f"{name}/tau_merged"], matrices[f"{name}/tau_target"])
    assert found.sar == pytest.approx(sar, abs=1e-6) and found.rank == rank


@each("lam", [0.0, 0.3, 0.5, 0.8])
@each(("name", "sar", "rank"), [("a", 0.98254106, 6), ("b", 0.97611067, 5)])
def test_a_source_whose_mixture_is_the_known_merge(name, sar, rank, lam):
    """With ``tau_k = (merged - lam tau_t) / (1 - lam)`` in one layer, the curve has the known answer at that lam."""
    matrices = safetensors.torch.load_file(ORACLE)
    merged, target = matrices[f"{name}/tau_merged"], matrices[f"{name}/tau_target"]
    embed, width = merged.shape
    architecture = Architecture(width=width, embed=embed, attention=4, n_bins=4)
    m0, noise = untrained_model(architecture, 0), torch.Generator().manual_seed(0)

    def with_embedding(matrix: torch.Tensor) -> TaskVector:
        shapes = architecture.encoder_shapes.items()
        tensors = {key: torch.randn(shape, generator=noise) for key, shape in shapes}
        return TaskVector(architecture, model_digest(m0), {**tensors, "embed.weight": matrix.float()})

    source = (merged - lam * target) / (1 - lam)
    found = sar_curves(Mixture.of(m0, with_embedding(target), [with_embedding(source)]), ["site-b"], [0.9, lam])
    layer = found.layers.index("embed.weight")
    assert found.sar[layer, 0, 1] == pytest.approx(sar, abs=1e-6) and found.rank[layer, 0, 1] == rank
    assert found.shapes[layer] == (embed, width)


@pytest.fixture(scope="module")
def vectors() -> list[TaskVector]:
    return list(make_vectors(make_recipe(), 3).values())


@pytest.fixture(scope="module")
def curves(vectors) -> SarCurves:
    target, *sources = vectors
    return sar_curves(Mixture.of(m0_of(make_recipe()), target, sources), SOURCES)


def test_every_point_is_the_length_of_a_projection(vectors, curves):
    assert curves.layers == LAYERS, "a matrix of one row has no subspace, a bias is none"
    assert curves.sources == SOURCES and curves.lam == LAM == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert curves.sar.shape == curves.rank.shape == (3, 2, 11)
    for i, layer in enumerate(LAYERS):
        own, *others = (vector.tensors[layer].double().numpy() for vector in vectors)
        assert curves.shapes[i] == own.shape
        for j, other in enumerate(others):
            for k, lam in enumerate(LAM):
                sar, rank = by_projection(lam * own + (1 - lam) * other, own)
                assert curves.sar[i, j, k] == pytest.approx(sar, abs=1e-6), (layer, j, lam)
                assert curves.rank[i, j, k] == rank
    assert len({round(float(x), 6) for x in curves.sar[:, :, :10].ravel()}) > 30, "they are not all alike"


def test_at_lam_1_it_is_what_the_target_keeps_of_itself(vectors, curves):
    """Whatever the source: the root of the energy that the kept directions hold, which is at least 95%."""
    for i, layer in enumerate(LAYERS):
        energy = np.cumsum(np.linalg.svd(vectors[0].tensors[layer].double().numpy(), compute_uv=False) ** 2)
        held = energy / energy[-1]
        k = int(np.argmax(held >= 0.95)) + 1
        assert curves.sar[i, :, -1] == pytest.approx([np.sqrt(held[k - 1])] * 2, abs=1e-6)
        assert curves.rank[i, :, -1].tolist() == [k, k] and held[k - 1] >= 0.95


def one_direction(like: TaskVector, row: int, column: int) -> TaskVector:
    """A vector whose matrices have one entry each, of 1."""
    tensors = {name: torch.zeros_like(tensor) for name, tensor in like.tensors.items()}
    for name in LAYERS:
        tensors[name][row, column] = 1.0
    return TaskVector(like.architecture, like.m0_sha256, tensors)


def test_of_two_directions_the_target_s_is_kept_once_it_holds_above_5_percent_of_the_energy(vectors):
    """``lam^2`` of ``lam^2 + (1 - lam)^2``; of a copy of the target nothing is ever lost."""
    target, other = one_direction(vectors[0], 0, 0), one_direction(vectors[0], 1, 1)
    found = sar_curves(
        Mixture.of(m0_of(make_recipe()), target, [target, other]), SOURCES, (0.0, 0.18, 0.19, 0.5, 0.81, 0.82, 1.0)
    )
    assert found.sar[:, 0] == pytest.approx(np.ones((3, 7))) and (found.rank[:, 0] == 1).all()
    assert [0.18**2 / (0.18**2 + 0.82**2) > 0.05, 0.19**2 / (0.19**2 + 0.81**2) > 0.05] == [False, True]
    assert found.sar[:, 1] == pytest.approx(np.tile([0, 0, 1, 1, 1, 1, 1], (3, 1)))
    assert found.rank[:, 1].tolist() == [[1, 1, 2, 2, 2, 1, 1]] * 3


def test_progress_is_told_up_to_its_end(vectors):
    told = []
    sar_curves(
        Mixture.of(m0_of(make_recipe()), vectors[0], vectors[1:]), SOURCES, (0.0, 1.0), lambda *done: told.append(done)
    )
    assert told == [(k, 12) for k in range(1, 13)]


@pytest.fixture(scope="module")
def picture(curves):
    return draw("site-a.fold-0.sar", curves, WHO)


def test_lines_are_the_numbers(curves, picture):
    panels = drawn(picture).axes
    assert len(panels) == len(curves.layers)
    for panel, values in zip(panels, curves.sar, strict=True):
        assert len(panel.lines) == len(SOURCES)
        for line, expected in zip(panel.lines, values, strict=True):
            assert tuple(line.get_xdata()) == curves.lam and np.array_equal(line.get_ydata(), expected)
        assert panel.get_ylim()[0] <= 0 and panel.get_ylim()[1] > 1
    first = lines_by_label(panels[0])
    assert list(first) == list(SOURCES)
    for source, line in zip(SOURCES, panels[2].lines, strict=True):
        assert (line.get_color(), line.get_linestyle()) == (first[source].get_color(), first[source].get_linestyle())


def test_whose_they_are_and_what_the_axes_say(picture):
    figure = drawn(picture)
    assert squeezed(WHO) in squeezed(heading(figure))
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["embed (8 x 6)", "attention_V (6 x 8)", "attention_U (6 x 8)"]
    assert {panel.get_ylabel() for panel in figure.axes} == {"SAR"}
    assert figure.axes[-1].get_xlabel() == "lam (0: the source's vector, 1: the target's own)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(SOURCES)


def test_the_rank_rule_is_told(picture):
    assert "fewest leading left-singular vectors that hold 95% of the mixture's energy" in picture.note


def test_the_table_has_every_point(curves, picture):
    assert picture.numbers.header == ["layer", "source", "lam", "SAR", "rank"]
    rows = iter(picture.numbers.rows)
    for i, layer in enumerate(LAYERS):
        for j, source in enumerate(SOURCES):
            for k in range(11):
                found = (f"{curves.sar[i, j, k]:.6f}", str(curves.rank[i, j, k]))
                assert next(rows) == [layer, source, f"{k / 10:g}", *found]
    assert next(rows, None) is None
