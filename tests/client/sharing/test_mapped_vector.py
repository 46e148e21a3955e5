"""Received vectors as pages of nameless files: exact, mapped, and never left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsteph.client.sharing.mapped_vector import mapped
from fedsteph.client.steph.mixture import _STACKED, Mixture
from fedsteph.common.errors import StorageError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector

SMALL = Architecture(6, 5, 4, 3)
M0 = untrained_model(SMALL, seed=0)


def vector(seed: int) -> TaskVector:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SMALL.encoder_shapes.items()}
    return TaskVector(SMALL, model_digest(M0), tensors)


def test_a_vector_comes_back_bit_for_bit_as_pages_of_a_file_without_a_name(tmp_path: Path) -> None:
    sent = vector(1)
    found = mapped(sent, tmp_path)
    assert torch.equal(found.flat(), sent.flat())
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in sent.tensors.items())
    mappings = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len(mappings) == 1 and mappings[0].endswith("(deleted)") and list(tmp_path.iterdir()) == []


def test_a_merge_of_many_reads_the_pages_and_copies_nothing(tmp_path: Path) -> None:
    sources = [mapped(vector(i), tmp_path) for i in range(_STACKED)]
    mixture = Mixture.of(M0, vector(99), sources)
    for row, source in zip(mixture.rows[1:], sources, strict=True):
        assert row.data_ptr() == source.tensors["embed.weight"].data_ptr()


def test_a_merge_of_few_holds_them_as_one_tensor(tmp_path: Path) -> None:
    mixture = Mixture.of(M0, vector(9), [mapped(vector(i), tmp_path) for i in range(_STACKED - 1)])
    assert isinstance(mixture.rows, torch.Tensor) and torch.equal(mixture.rows[3], vector(2).flat())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "from_file", full)
    with pytest.raises(StorageError, match="No space"):
        mapped(vector(1), tmp_path)
    assert list(tmp_path.iterdir()) == []
