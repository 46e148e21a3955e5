"""Received vectors on the target's disk: mapped, exact, and gone with their run."""

from __future__ import annotations

from pathlib import Path

import torch

from client.received import FOLDER, Received
from client.steph.mixture import Mixture
from common.abmil import Architecture, initial_model, model_digest
from common.task_vector import TaskVector

SMALL = Architecture(6, 5, 4, 3)
M0 = initial_model(SMALL, seed=0)


def vector(seed: int) -> TaskVector:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SMALL.encoder_shapes.items()}
    return TaskVector(SMALL, model_digest(M0), tensors)


def mappings(path: Path) -> int:
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_vector_comes_back_bit_for_bit_as_pages_of_its_file(tmp_path: Path) -> None:
    sent = vector(1)
    found = Received(tmp_path, "run").mapped("alpha", sent)
    path = tmp_path / FOLDER / "run" / "alpha.f32"
    assert path.read_bytes() == sent.flat().numpy().tobytes()
    assert torch.equal(found.flat(), sent.flat())
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in sent.tensors.items())
    assert mappings(path) == 1


def test_a_merge_reads_the_pages_and_copies_nothing(tmp_path: Path) -> None:
    received = Received(tmp_path, "run")
    sources = [received.mapped(f"s{i}", vector(i)) for i in range(3)]
    mixture = Mixture.of(M0, vector(9), sources)
    for row, source in zip(mixture.rows[1:], sources, strict=True):
        assert row.data_ptr() == source.tensors["embed.weight"].data_ptr()


def test_the_same_vector_again_is_harmless_to_one_in_use(tmp_path: Path) -> None:
    received = Received(tmp_path, "run")
    first = received.mapped("alpha", vector(1))
    second = Received(tmp_path, "run").mapped("alpha", vector(1))
    assert torch.equal(first.flat(), second.flat())
    Received(tmp_path, "run").mapped("alpha", vector(2))
    assert torch.equal(first.flat(), vector(1).flat()), "the old file's pages stay while they are held"


def test_a_new_run_takes_the_place_of_the_last(tmp_path: Path) -> None:
    Received(tmp_path, "old").mapped("alpha", vector(1))
    Received(tmp_path, "new").mapped("beta", vector(2))
    assert [path.relative_to(tmp_path / FOLDER).as_posix() for path in sorted((tmp_path / FOLDER).rglob("*.f32"))] == [
        "new/beta.f32"
    ]


def test_an_old_model_is_not_touched_by_writing_to_a_vector(tmp_path: Path) -> None:
    """A careless write goes to a private copy of the page, never to the file."""
    found = Received(tmp_path, "run").mapped("alpha", vector(1))
    found.flat().zero_()
    assert (tmp_path / FOLDER / "run" / "alpha.f32").read_bytes() == vector(1).flat().numpy().tobytes()
