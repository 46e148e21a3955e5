"""Models on disk: what comes back is what was saved, and anything else is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from client_builders import SMALL, equal, state_of
from safetensors import safe_open

from client.model_file import FORMAT, load_abmil, load_model, save_abmil, save_steph
from client.steph.mixture import Mixture
from client.steph.model import Steph
from common.abmil import ABMIL, initial_model
from common.config import StephConfig
from common.errors import ModelFileError

M0 = "0" * 64
BAGS = torch.randn(3, 5, SMALL.width, generator=torch.Generator().manual_seed(0))


def steph(**config) -> Steph:
    torch.manual_seed(1)
    theta_0 = torch.cat([p.detach().flatten() for p in initial_model(SMALL, 0).encoder_state().values()])
    mixture = Mixture(SMALL, theta_0, 0.3 * torch.randn(4, len(theta_0)))
    return Steph(mixture, StephConfig(**config), dropout=0.25).eval()


def save(path: Path, model: ABMIL | Steph) -> Path:
    if isinstance(model, Steph):
        save_steph(path, model, ["a", "b", "c"], m0_sha256=M0)
    else:
        save_abmil(path, model, m0_sha256=M0)
    return path


def rewritten(path: Path, change) -> Path:
    """The file with ``change(tensors, metadata)`` done to it."""
    with safe_open(path, framework="pt") as file:
        metadata, names = file.metadata(), list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    metadata = {**metadata, "description": json.loads(metadata["description"])}
    change(tensors, metadata)
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def test_a_local_model_comes_back_bit_for_bit(tmp_path):
    model = initial_model(SMALL, 3).eval()
    loaded = load_model(save(tmp_path / "m.safetensors", model))
    assert (loaded.architecture, loaded.sources) == (SMALL, ())
    assert not loaded.model.training
    assert equal(state_of(loaded.model), state_of(model))
    assert torch.equal(loaded.model(BAGS), model(BAGS))
    assert load_abmil(tmp_path / "m.safetensors", dropout=0.5).dropout == 0.5


@pytest.mark.parametrize(
    "config",
    [
        {"K": 2},
        {"K": None, "variant": "fnn", "output": "softplus"},
        {"K": 1, "variant": "param", "output": "sigmoid", "start_mass": 0.5},
        {"K": 2, "weights": "param", "normalise": True, "epochs": 3, "lr": 0.1},
        {"K": 2, "variant": "fnn", "start": "local", "start_lam": 0.7, "start_mass": 0.5, "spread": 0.3},
        {"K": 9, "variant": "fix", "fixed_lam": 0.3, "gamma": 0.005, "gamma_grid": (0.0, 0.1)},
    ],
)
def test_an_enhanced_model_comes_back_bit_for_bit(tmp_path, config):
    model = steph(**config)
    loaded = load_model(save(tmp_path / "m.safetensors", model))
    assert (loaded.architecture, loaded.sources) == (SMALL, ("a", "b", "c"))
    assert isinstance(loaded.model, Steph)
    assert not loaded.model.training
    assert loaded.model.config == model.config
    assert equal(state_of(loaded.model), state_of(model))
    assert torch.equal(loaded.model(BAGS), model(BAGS))


def test_saving_leaves_the_model_alone_and_no_scraps(tmp_path):
    model = steph()
    before = state_of(model)
    save(tmp_path / "new" / "m.safetensors", model)
    save(tmp_path / "new" / "m.safetensors", model)
    assert equal(state_of(model), before)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.safetensors"]


def test_an_enhanced_model_is_no_local_one(tmp_path):
    with pytest.raises(ModelFileError, match="not a local model"):
        load_abmil(save(tmp_path / "m.safetensors", steph()))


@pytest.mark.parametrize("content", [None, b"", b"junk", b"\x00" * 100])
def test_files_that_are_no_safetensors(tmp_path, content):
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"cannot be read|no such file") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path, share):
    path = save(tmp_path / "m.safetensors", initial_model(SMALL, 0))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model(path)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelFileError):
        load_model(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "fedsteph/vector/v1"}, {"format": FORMAT + "0"}])
def test_another_format(tmp_path, metadata):
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(ModelFileError, match=f"not a {FORMAT} file"):
        load_model(path)


def drop(name):
    return lambda tensors, metadata: tensors.pop(name)


def reshape(name, *shape):
    return lambda tensors, metadata: tensors.update({name: torch.zeros(shape)})


def describe(**changes):
    return lambda tensors, metadata: metadata["description"].update(changes)


def undescribed(value):
    return lambda tensors, metadata: metadata.update(description=value)


LOCAL_FAULTS = {
    "missing tensor": drop("head.bias"),
    "extra tensor": reshape("more", 1),
    "other shape": reshape("head.bias", 7),
    "no description": lambda tensors, metadata: metadata.pop("description"),
    "description no JSON": undescribed("{"),
    "description no mapping": undescribed([1]),
    "no architecture": undescribed({"kind": "abmil"}),
    "other architecture": describe(architecture={"width": 6, "embed": 9, "attention": 5, "n_bins": 4}),
    "negative size": describe(architecture={"width": -6, "embed": 8, "attention": 5, "n_bins": 4}),
    "unknown kind": describe(kind="cnn"),
}
N = sum(math.prod(shape) for shape in SMALL.encoder_shapes.values())
STEPH_FAULTS = {
    "missing vectors": drop("stack"),
    "missing start": drop("theta_0"),
    "missing learned": drop("learned.head.weight"),
    "fewer parameters": reshape("stack", 4, N - 1),
    "other start": reshape("theta_0", N + 1),
    "flat vectors": reshape("stack", 4 * N),
    "fewer vectors": reshape("stack", 3, N),
    "more names than vectors": describe(sources=["a", "b", "c", "d"]),
    "fewer names than vectors": describe(sources=["a", "b"]),
    "no names": lambda tensors, metadata: metadata["description"].pop("sources"),
    "other K": describe(steph={"K": 0}),
    "unknown key": describe(steph={"k": 1}),
}


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
def test_a_local_model_that_is_not_its_description(tmp_path, fault):
    path = rewritten(save(tmp_path / "m.safetensors", initial_model(SMALL, 0)), LOCAL_FAULTS[fault])
    with pytest.raises(ModelFileError, match="do not fit its description") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("fault", STEPH_FAULTS)
def test_an_enhanced_model_that_is_not_its_description(tmp_path, fault):
    path = rewritten(save(tmp_path / "m.safetensors", steph()), STEPH_FAULTS[fault])
    with pytest.raises(ModelFileError, match="do not fit its description") as caught:
        load_model(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("make", [lambda: initial_model(SMALL, 0), steph])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, make, value):
    model = make()
    with torch.no_grad():
        model.head.weight[0, 0] = value
    with pytest.raises(ModelFileError, match="not finite"):
        save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: initial_model(SMALL, 0), "embed.weight"),
        (steph, "stack"),
        (steph, "theta_0"),
        (steph, "learned.head.bias"),
    ],
)
def test_weights_that_are_not_finite_are_not_loaded(tmp_path, make, name):
    def spoil(tensors, metadata):
        tensors[name].view(-1)[0] = math.nan

    path = rewritten(save(tmp_path / "m.safetensors", make()), spoil)
    with pytest.raises(ModelFileError, match="not finite") as caught:
        load_model(path)
    assert caught.value.where == str(path)
