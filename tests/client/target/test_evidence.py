"""What a target keeps of its test patients: bit for bit, once a patient, and never a pickle."""

from __future__ import annotations

import io
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsteph.client.evaluation.decision import Decision
from fedsteph.client.evaluation.metrics import Metrics
from fedsteph.client.steph.usage import SourceUse, Usage
from fedsteph.client.target.evidence import Evidence, evidence_of, read_evidence, write_evidence
from fedsteph.client.target.fold_result import FoldResult
from fedsteph.common.errors import ModelFileError
from fedsteph.common.model.survival import risk_score, survival_from_hazards

METHODS = ("local", "steph", "panel", "deployed")
N_BINS = 5


def fold_result(ids: tuple[str, ...], seed: int, sources: tuple[str, ...] = (), usage: Usage | None = None):
    rng = np.random.default_rng(seed)
    n = len(ids)
    return FoldResult(
        selection=None,
        collapsed=False,
        decision=Decision("local", "", None),
        model=Path("local.safetensors"),
        sources={name: SourceUse(1.0, 0.5, 0.5) for name in sources},
        times=rng.exponential(900, n),
        events=rng.integers(0, 2, n),
        risk={},
        uno_weight=np.ones(n),
        metrics={"local": Metrics()},
        learnable={},
        ids=ids,
        hazards={name: rng.uniform(0.05, 0.4, (n, N_BINS)) for name in METHODS},
        cut_off={name: float(rng.normal(-3, 0.3)) for name in METHODS},
        usage=usage,
    )


def random_usage(n: int, n_sources: int, seed: int = 0) -> Usage:
    rng = np.random.default_rng(seed)
    w = rng.random((n, n_sources)) * (rng.random((n, n_sources)) < 0.6)
    return Usage(w, np.where(w > 0, rng.random(w.shape), np.nan))


FOLDS = (
    fold_result(("P1", "P2", "ä/ö 3"), 1, ("site-b", "site-c"), random_usage(3, 2)),
    fold_result(("P4", "P2"), 2),
    fold_result(("P1", "P5", "P6", "P4"), 3, ("site-c",), random_usage(4, 1, seed=5)),
)
SOURCES = ("site-b", "site-c")


@pytest.fixture
def found() -> Evidence:
    return evidence_of(FOLDS, SOURCES)


def test_all_test_patients_stand_in_order_of_folds(found):
    assert found.ids.tolist() == ["P1", "P2", "ä/ö 3", "P4", "P2", "P1", "P5", "P6", "P4"]
    assert found.fold.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2] and len(found) == 9 and found.sources == SOURCES
    assert found.times.tolist() == [t for fold in FOLDS for t in fold.times]
    assert found.events.tolist() == [e for fold in FOLDS for e in fold.events]
    assert {*found.hazards} == {*found.cut_off} == {*METHODS}
    for name in METHODS:
        assert found.hazards[name].tolist() == [row for fold in FOLDS for row in fold.hazards[name].tolist()]
        assert found.cut_off[name].tolist() == [fold.cut_off[name] for fold in FOLDS]


def test_a_source_s_weights_stand_in_its_own_column_and_nan_where_a_fold_refused_it(found):
    nan = [np.nan, np.nan]
    w = [*FOLDS[0].usage.w.tolist(), nan, nan, *([np.nan, x] for x in FOLDS[2].usage.w[:, 0])]
    lam = [*FOLDS[0].usage.lam.tolist(), nan, nan, *([np.nan, x] for x in FOLDS[2].usage.lam[:, 0])]
    np.testing.assert_array_equal(found.w, w)
    np.testing.assert_array_equal(found.lam, lam)


def test_sources_are_matched_by_name_and_not_by_place():
    turned = evidence_of(FOLDS, ("site-c", "site-x", "site-b"))
    np.testing.assert_array_equal(turned.w[:, 0], evidence_of(FOLDS, SOURCES).w[:, 1])
    np.testing.assert_array_equal(turned.w[:, 2], evidence_of(FOLDS, SOURCES).w[:, 0])
    assert np.isnan(turned.w[:, 1]).all() and np.isnan(turned.lam[:, 1]).all()


def test_a_patient_in_two_folds_counts_once(found):
    """As the first fold that tests it has it, with all that belongs to it."""
    once, first = found.once, [0, 1, 2, 3, 6, 7]
    assert once.ids.tolist() == ["P1", "P2", "ä/ö 3", "P4", "P5", "P6"]
    for name in ("ids", "fold", "times", "events", "w", "lam"):
        np.testing.assert_array_equal(getattr(once, name), [getattr(found, name)[i] for i in first])
    for name in METHODS:
        assert once.hazards[name].tolist() == [found.hazards[name][i].tolist() for i in first]
        assert once.cut_off[name].tolist() == found.cut_off[name].tolist(), "the cut-offs are of folds"
        assert once.high_risk(name).tolist() == [found.high_risk(name)[i] for i in first]
    assert once.sources == found.sources and len(found) == 9


def test_nobody_is_lost_where_everybody_is_there_once():
    alone = evidence_of(FOLDS[:1], SOURCES)
    assert alone.once.ids.tolist() == alone.ids.tolist() == ["P1", "P2", "ä/ö 3"]


def test_risk_equals_the_models_risk_score(found):
    for name in METHODS:
        expected = risk_score(torch.from_numpy(found.hazards[name])).numpy()
        assert found.risk(name) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("year", [1, 2, 3, 5])
def test_event_probability_is_one_minus_survival_of_the_year(found, year):
    for name in METHODS:
        alive = survival_from_hazards(torch.from_numpy(found.hazards[name]))[:, year - 1].numpy()
        assert found.event_probability(name, year) == pytest.approx(1 - alive, abs=1e-12)


def test_probability_and_risk_by_hand():
    hazards = np.array([[0.5, 0.2, 0.0]])
    one = Evidence(
        np.array(["P"]),
        np.zeros(1, int),
        np.ones(1),
        np.ones(1, int),
        {"m": hazards},
        {"m": np.zeros(1)},
        (),
        *[None] * 2,
    )
    assert one.risk("m") == pytest.approx([-(0.5 + 0.5 * 0.8 + 0.5 * 0.8 * 1.0)])
    assert [one.event_probability("m", year)[0] for year in (1, 2, 3)] == pytest.approx([0.5, 0.6, 0.6])


def test_high_risk_is_above_the_cut_off_of_the_patient_s_own_fold(found):
    differ = 0
    for name in METHODS:
        risk = found.risk(name)
        expected = [risk[i] > FOLDS[found.fold[i]].cut_off[name] for i in range(len(found))]
        assert found.high_risk(name).tolist() == expected
        differ += sum(expected != (risk > cut).tolist() for cut in found.cut_off[name])
    assert differ > 0, "no single cut-off gives the same"


def test_a_risk_at_the_cut_off_is_not_above_it(found):
    found.cut_off["local"][:] = found.risk("local")[:1]
    assert not found.high_risk("local")[0]


def test_it_is_read_back_bit_for_bit(found, tmp_path):
    path = tmp_path / "new" / "evidence.npz"
    write_evidence(path, found)
    again = read_evidence(path)
    for field in fields(Evidence):
        wrote, read = getattr(found, field.name), getattr(again, field.name)
        if field.name in ("hazards", "cut_off"):
            assert list(read) == list(wrote)
            pairs = [(wrote[name], read[name]) for name in wrote]
        elif field.name == "sources":
            assert read == wrote
            continue
        else:
            pairs = [(wrote, read)]
        for a, b in pairs:
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
    assert [file.name for file in path.parent.iterdir()] == ["evidence.npz"]


def test_evidence_without_a_source_is_read_back(tmp_path):
    write_evidence(tmp_path / "evidence.npz", evidence_of(FOLDS[1:2], ()))
    again = read_evidence(tmp_path / "evidence.npz")
    assert again.sources == () and again.w.shape == again.lam.shape == (2, 0) and again.ids.tolist() == ["P4", "P2"]


def test_a_missing_file_is_told_with_what_to_do(tmp_path):
    with pytest.raises(ModelFileError, match=r"evidence\.npz: is missing: an earlier version.*[Rr]un the same command"):
        read_evidence(tmp_path / "evidence.npz")


def without(path: Path, name: str) -> None:
    """Leave one array out."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != name}
    np.savez(path, **arrays)


def with_flipped_bit(path: Path) -> None:
    """Within the largest array's numbers, so that the checksum does not fit."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        largest = max(file.infolist(), key=lambda one: one.file_size)
    content[largest.header_offset + 30 + len(largest.filename) + largest.file_size - 5] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an archive"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bit": with_flipped_bit,
    "one array": lambda path: path.write_bytes(npy(np.zeros(3))),
    "no ids": lambda path: without(path, "ids"),
    "no lam": lambda path: without(path, "lam"),
    "no sources": lambda path: without(path, "sources"),
}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_told_with_what_to_do(damage, found, tmp_path):
    path = tmp_path / "evidence.npz"
    write_evidence(path, found)
    damage(path)
    with pytest.raises(ModelFileError, match=r"evidence\.npz: is damaged\. Run the same command again"):
        read_evidence(path)


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["ids", "hazards.local", "unheard_of"])
def test_a_pickle_is_refused_and_not_run(name, found, tmp_path):
    path, mark = tmp_path / "evidence.npz", tmp_path / "mark"
    write_evidence(path, found)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(path, **{**arrays, name: np.array([Trap(mark)], dtype=object)})
    with pytest.raises(ModelFileError, match="is damaged"):
        read_evidence(path)
    assert not mark.exists()
    with np.load(path, allow_pickle=True) as file:
        file[name]
    assert mark.exists(), "the trap works"


def test_nothing_that_is_written_is_a_pickle(found, tmp_path):
    write_evidence(tmp_path / "evidence.npz", found)
    with np.load(tmp_path / "evidence.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "Uif" for name in file.files)
