"""Checkpoints of other programs: the same hazards as there, or a refusal that says why; none of their code is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from client_builders import equal, make_recipe
from each_case import each
from plain_abmil import SIZES, ClamModel, OurNames, StephModel, moved, seeded

from fedsteph.client.models.foreign_checkpoint import read_foreign
from fedsteph.client.models.model_file import load_model, save_base
from fedsteph.client.models.model_import import import_model, told_of
from fedsteph.common.errors import ModelFileError, VectorMismatchError
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.initial_model import model_digest, untrained_model
from fedsteph.common.vector.vector_file import load_vector, save_vector

STEPH = {name: tensor.detach() for name, tensor in seeded(StephModel).state_dict().items()}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@each(
    ("model", "layout", "passed_over"),
    [
        (seeded(OurNames), "ours", 0),
        (seeded(StephModel), "steph", 0),
        (seeded(ClamModel), "clam", 4),
        (seeded(ClamModel, dropout=False), "clam", 4),
    ],
)
def test_a_model_predicts_here_what_it_predicted_there(model, layout, passed_over, tmp_path) -> None:
    bag, state = torch.randn(9, SIZES[0], generator=torch.Generator().manual_seed(1)), model.state_dict()
    wrapped = {"state_dict": {f"module.model.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    for content in (state, {"model": state}, {"model_state_dict": state}, wrapped):
        path = saved(tmp_path / "m.pth", content)
        for asked in ("auto", layout):
            found = read_foreign(path, asked)
            assert (found.layout, len(found.passed_over)) == (layout, passed_over)
            with torch.no_grad():
                torch.testing.assert_close(found.model(bag[None])[0], model(bag), rtol=0, atol=1e-6)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "m.safetensors")
    for name in ("old.pt", "m.safetensors"):
        assert equal(read_foreign(tmp_path / name).model.state_dict(), found.model.state_dict())


def test_other_floating_point_numbers_become_float32(tmp_path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        given = {name: tensor.to(dtype) for name, tensor in STEPH.items()}
        found = read_foreign(saved(tmp_path / "m.pth", given)).model.state_dict()
        assert (
            torch.equal(found["head.bias"], given["pred_head.bias"].float())
            and found["head.bias"].dtype is torch.float32
        )


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in STEPH.items() if key != name}


@each(
    ("content", "said"),
    [
        (without("pred_head.bias"), r"lacks pred_head\.bias of the layout steph, which is the closest; it has "),
        (STEPH | {"norm.weight": torch.ones(3)}, "no part of an ABMIL: norm.weight"),
        (STEPH | {"feat_proj.0.weight": torch.ones(8)}, r"embed\.weight has the shape \(8,\)"),
        (STEPH | {"attention_net.attention_c.weight": torch.ones(2, 5)}, r"attention_c\.weight .* ask for \(1, 5\)"),
        (STEPH | {"pred_head.weight": torch.ones(4, 9)}, r"head\.weight .* ask for \(4, 8\)"),
        (STEPH | {"pred_head.bias": torch.tensor([0.0, 1, float("nan"), 2])}, "head.bias holds NaN"),
        (STEPH | {"pred_head.bias": torch.full((4,), 1e300, dtype=torch.float64)}, "too large for float32"),
        (STEPH | {"pred_head.bias": torch.ones(4, dtype=torch.int64)}, "no dense tensor of floating-point"),
        (STEPH | {"pred_head.bias": torch.ones(4).to_sparse()}, "no dense tensor"),
        (STEPH | {"pred_head.bias": torch.ones(1).expand(4)}, "fewer values than its shape"),
        (STEPH | {"feat_proj.0.weight": torch.ones(1).expand(8, 70_000)}, "width must be 1 to 65536"),
        (STEPH | {"epoch": 3}, "holds 'epoch', which is no named tensor"),
        ({3: torch.ones(1)}, "holds 3, which is no named tensor"),
        ({}, "holds no mapping of tensors"),
        (torch.ones(3), "holds no mapping of tensors"),
        (STEPH | {"x": Bomb()}, r"holds more than plain tensors \(\w+\.mkdir\)"),
    ],
)
def test_what_is_no_such_model_is_refused_by_name(content, said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=said) as caught:
        read_foreign(saved(tmp_path / "m.pth", content))
    assert str(tmp_path / "m.pth") in caught.value.sentence and caught.value.remedy
    assert not Path("exploded").exists()


def test_damaged_files_and_other_files_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = saved(tmp_path / "m.pth", STEPH).read_bytes()
    safetensors.torch.save_file(STEPH, tmp_path / "whole.safetensors")
    half = (tmp_path / "whole.safetensors").read_bytes()[:500]
    contents = {
        "a.pth": whole[:700],
        "b.pth": b"",
        "c.pth": pickle.dumps(Bomb()),
        "d.csv": b"a,b\n",
        "e.safetensors": half,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f.pth").mkdir()
    for name in (*contents, "f.pth", "g.pth"):
        with pytest.raises(ModelFileError, match=name):
            read_foreign(tmp_path / name)
    assert not Path("exploded").exists()
    with pytest.raises(ModelFileError, match="of the layout clam; it has"):
        read_foreign(tmp_path / "m.pth", "clam")


def test_our_own_files_are_read_with_their_own_checks(tmp_path) -> None:
    model = untrained_model(Architecture(*SIZES), 3)
    save_base(tmp_path / "m.safetensors", model, m0_sha256="0" * 64)
    assert model_digest(read_foreign(tmp_path / "m.safetensors").model) == model_digest(model)
    content = bytearray((tmp_path / "m.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match="is damaged"):
        read_foreign(tmp_path / "m.safetensors")


def test_a_vector_is_the_difference_from_the_m0_that_is_given(tmp_path) -> None:
    null, trained = (saved(tmp_path / f"{k}.pth", moved(seeded(StephModel), 1, 0.1 * k).state_dict()) for k in (0, 1))
    import_model(null).save(tmp_path / "m0.safetensors")
    m0 = load_model(tmp_path / "m0.safetensors")
    assert m0.m0 == model_digest(m0.model), "without an M0 it is one itself"
    first, second = torch.load(null), torch.load(trained)
    for start in (null, tmp_path / "m0.safetensors"):
        found = import_model(trained, m0=start)
        save_vector(tmp_path / "tau.safetensors", found.vector())
        tau = load_vector(tmp_path / "tau.safetensors", m0.model)
        assert torch.equal(
            tau.tensors["attention_U.bias"],
            second["attention_net.attention_b.0.bias"] - first["attention_net.attention_b.0.bias"],
        )
        assert found.m0_sha256 == tau.m0_sha256 == m0.m0
    found.save(tmp_path / "m.safetensors")
    told = told_of(tmp_path / "m.safetensors")
    assert (told["is_m0"], told["m0_sha256"], told["imported_sha256"]) == (False, m0.m0, found.foreign.sha256)
    with pytest.raises(ModelFileError, match="none is given"):
        import_model(null).vector()
    with pytest.raises(ModelFileError, match="its task vector is zero"):
        import_model(null, m0=null).vector()
    wide = saved(tmp_path / "wide.pth", seeded(StephModel, sizes=(6, 8, 5, 9)).state_dict())
    with pytest.raises(VectorMismatchError, match=r"4 bins, and its M0 .* 9 bins"):
        import_model(trained, m0=wide)


def test_only_a_whole_sha256_is_an_origin(tmp_path) -> None:
    model = untrained_model(Architecture(*SIZES), 3)
    save_base(tmp_path / "m.safetensors", model, m0_sha256=str(make_recipe().model.m0_sha256), imported="../x")
    with pytest.raises(ModelFileError, match="no SHA-256"):
        load_model(tmp_path / "m.safetensors")
