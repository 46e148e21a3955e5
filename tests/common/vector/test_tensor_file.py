"""The digest in the header of safetensors files; test_vector_file and test_model_file have the rest of the header."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from damage import flipped

from fedsteph.common.errors import ModelFileError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.task_vector import TaskVector
from fedsteph.common.vector.tensor_file import read_stamped, stamped
from fedsteph.common.vector.vector_file import write_vector

M0 = untrained_model(Architecture(2, 2, 1, 1), 0)
CONTENT = write_vector(TaskVector(M0.architecture, model_digest(M0), M0.encoder_state()))


def test_a_kept_vector_comes_back_byte_for_byte_and_is_a_file_that_safetensors_reads(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(stamped(CONTENT))
    assert read_stamped(tmp_path / "f") == CONTENT
    found = safetensors.torch.load_file(tmp_path / "f")
    assert all(torch.equal(found[name], tensor) for name, tensor in M0.encoder_state().items())
    (tmp_path / "f").write_bytes(CONTENT)  # of an earlier version
    assert read_stamped(tmp_path / "f") == CONTENT


def test_a_kept_vector_with_a_flipped_bit_is_never_used(tmp_path: Path) -> None:
    """One in each byte."""
    content = stamped(CONTENT)
    for bit in range(0, 8 * len(content), 7):
        (tmp_path / "f").write_bytes(flipped(content, bit))
        with pytest.raises(ModelFileError):
            read_stamped(tmp_path / "f")
