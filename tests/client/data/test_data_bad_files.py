"""Every broken feature file is refused by a typed error that names it, and none of them runs code."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from data_builders import features, h5_bytes, pt_bytes, put, save, write_h5

from fedsteph.client.data.formats import read_features, read_header
from fedsteph.common.errors import EmptyBagError, FeatureFileError, NonFiniteError, UnsafePickleError, WidthError

X = features()


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.sentinel),)


def with_value(value: float, dtype: type = np.float32) -> np.ndarray:
    values = X.astype(dtype)
    values[1, 2] = values[3, 0] = values[3, 1] = value
    return values


def zip_of(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, "hello")
    return path


def numpy_file(path: Path, write: Callable[..., None]) -> Path:
    with path.open("wb") as file:
        write(file, X)
    return path


def h5(fill: Callable[[h5py.File], object]) -> Callable[[Path], Path]:
    def build(path: Path) -> Path:
        with h5py.File(path, "w") as file:
            fill(file)
        return path

    return build


def dataset(file: h5py.File, **options: object) -> h5py.Dataset:
    return file.create_dataset("features", shape=(50, 4), dtype="f4", **options)


def torchscript(path: Path) -> Path:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.trace(Module(), torch.zeros(1)).save(str(path))
    return path


Bad = tuple[Callable[[Path], Path], type[FeatureFileError], str]

BAD: dict[str, Bad] = {
    # not there, not a file, not a known layout
    "absent": (lambda p: p, FeatureFileError, "No such file"),
    "folder": (lambda p: (p.mkdir(), p)[1], FeatureFileError, "is a folder, not a file"),
    "named pipe": (lambda p: (os.mkfifo(p), p)[1], FeatureFileError, "is a named pipe, not a file"),
    "below a file": (lambda p: put(p, b"x") / "y", FeatureFileError, "Not a directory"),
    "zero bytes": (lambda p: put(p, b""), FeatureFileError, "0 bytes"),
    "garbage": (lambda p: put(p, b"garbage" * 99), FeatureFileError, "neither HDF5 nor"),
    "one byte": (lambda p: put(p, b"\x89"), FeatureFileError, "neither HDF5 nor"),
    "csv": (lambda p: put(p, b"1.0,2.0\n"), FeatureFileError, "neither HDF5 nor"),
    "npy of objects": (
        lambda p: numpy_file(p, lambda file, _: np.save(file, np.array([{}]), allow_pickle=True)),
        FeatureFileError,
        "holds objects, not numbers",
    ),
    "npy cut": (lambda p: put(p, numpy_file(p, np.save).read_bytes()[:-1]), FeatureFileError, "promises 80 bytes"),
    "npy and more": (lambda p: put(p, numpy_file(p, np.save).read_bytes() + b"x"), FeatureFileError, "promises 80"),
    "npy magic only": (lambda p: put(p, b"\x93NUMPY"), FeatureFileError, "truncated, damaged"),
    # damaged
    "h5 magic only": (lambda p: put(p, h5_bytes()[:8]), FeatureFileError, "truncated"),
    "h5 cut in the superblock": (lambda p: put(p, h5_bytes()[:60]), FeatureFileError, "truncated"),
    "h5 cut in the middle": (lambda p: put(p, h5_bytes()[:900]), FeatureFileError, "truncated"),
    "h5 cut by a byte": (lambda p: put(p, h5_bytes()[:-1]), FeatureFileError, "truncated"),
    "h5 magic and garbage": (lambda p: put(p, h5_bytes()[:8] + b"?" * 99), FeatureFileError, "damaged"),
    "pt cut in the middle": (lambda p: put(p, pt_bytes(torch.zeros(9, 9))[:500]), FeatureFileError, "damaged"),
    "pt cut by a byte": (lambda p: put(p, pt_bytes(torch.zeros(9, 9))[:-1]), FeatureFileError, "damaged"),
    "pt magic only": (lambda p: put(p, b"PK\x03\x04"), FeatureFileError, "damaged"),
    "legacy pt cut": (lambda p: put(p, pt_bytes(torch.zeros(9, 9), legacy=True)[:-9]), FeatureFileError, "damaged"),
    "zip of text": (lambda p: zip_of(p, "a.txt"), FeatureFileError, "damaged"),
    "zip like a pt": (lambda p: zip_of(p, "archive/data.txt"), FeatureFileError, "damaged"),
    "npz of other keys": (lambda p: numpy_file(p, np.savez), FeatureFileError, "holds no 'features'; it holds 'arr_0'"),
    "npz of slide vectors": (
        lambda p: numpy_file(p, lambda file, x: np.savez(file, features=x[0])),
        FeatureFileError,
        "features of shape (4,)",
    ),
    "h5 never written": (h5(dataset), FeatureFileError, "promises 800 bytes of features and holds 0"),
    "h5 never written, gzip": (h5(lambda f: dataset(f, compression="gzip")), FeatureFileError, "promises"),
    "h5 half written": (
        h5(lambda f: dataset(f, chunks=(1, 4)).__setitem__(slice(20), 1)),
        FeatureFileError,
        "promises 50 chunks of 'features' and holds 20",
    ),
    "h5 broken link": (
        h5(lambda f: f.__setitem__("features", h5py.ExternalLink("elsewhere.h5", "/features"))),
        FeatureFileError,
        "a link to another file",
    ),
    # the wrong key
    "h5 other key": (lambda p: write_h5(p, X, key="embeddings"), FeatureFileError, "'coords', 'embeddings'"),
    "h5 other case": (lambda p: write_h5(p, X, key="Features"), FeatureFileError, "'Features'"),
    "h5 group": (h5(lambda f: f.create_group("features")), FeatureFileError, "'features' is a group"),
    "pt other key": (lambda p: save(p, {"feats": torch.zeros(2, 2)}), FeatureFileError, "'feats'"),
    "pt other case": (lambda p: save(p, {"FEATURES": torch.zeros(2, 2)}), FeatureFileError, "'FEATURES'"),
    "pt empty dict": (lambda p: save(p, {}), FeatureFileError, "it holds nothing"),
    "pt numbered keys": (lambda p: save(p, {1: 2}), FeatureFileError, "'1'"),
    # no tensor
    "pt list": (lambda p: save(p, [torch.zeros(2, 2)]), FeatureFileError, "holds a list"),
    "pt none": (lambda p: save(p, None), FeatureFileError, "NoneType"),
    "pt dict of list": (lambda p: save(p, {"features": [1.0]}), FeatureFileError, "holds a list"),
    "pt sparse": (lambda p: save(p, torch.eye(3).to_sparse()), FeatureFileError, "not dense"),
    "pt meta": (lambda p: save(p, torch.empty(3, 3, device="meta")), FeatureFileError, "not dense"),
    "pt one value, often": (
        lambda p: save(p, torch.zeros(1, 1).expand(10**7, 10**7)),
        FeatureFileError,
        "need 372529.0 GiB of memory",
    ),
    # the wrong shape
    "h5 1-D": (lambda p: write_h5(p, X[0]), FeatureFileError, "shape (4,)"),
    "h5 scalar": (lambda p: write_h5(p, 1.0), FeatureFileError, "shape ()"),
    "h5 leading 2": (lambda p: write_h5(p, np.stack([X, X])), FeatureFileError, "shape (2, 5, 4)"),
    "h5 4-D": (lambda p: write_h5(p, X[None, None]), FeatureFileError, "shape (1, 1, 5, 4)"),
    "h5 no dataspace": (h5(lambda f: f.__setitem__("features", h5py.Empty("f4"))), FeatureFileError, "shape ()"),
    "h5 width 0": (lambda p: write_h5(p, X[:, :0]), FeatureFileError, "shape (5, 0)"),
    "pt 1-D": (lambda p: save(p, torch.zeros(7)), FeatureFileError, "shape (7,)"),
    "pt leading 2": (lambda p: save(p, torch.zeros(2, 5, 4)), FeatureFileError, "shape (2, 5, 4)"),
    "pt width 0": (lambda p: save(p, torch.zeros(5, 0)), FeatureFileError, "shape (5, 0)"),
    # the wrong type
    "h5 int64": (lambda p: write_h5(p, X.astype(np.int64)), FeatureFileError, "int64"),
    "h5 uint8": (lambda p: write_h5(p, X.astype(np.uint8)), FeatureFileError, "uint8"),
    "h5 bool": (lambda p: write_h5(p, X > 0), FeatureFileError, "bool"),
    "h5 complex": (lambda p: write_h5(p, X.astype(np.complex64)), FeatureFileError, "complex64"),
    "h5 text": (lambda p: write_h5(p, np.full((2, 2), b"x")), FeatureFileError, "bytes8"),
    "pt int32": (lambda p: save(p, torch.zeros(2, 2, dtype=torch.int32)), FeatureFileError, "int32"),
    "pt bool": (lambda p: save(p, torch.zeros(2, 2) > 0), FeatureFileError, "bool"),
    # empty bags
    "h5 N = 0": (lambda p: write_h5(p, X[:0]), EmptyBagError, "data.exclude"),
    "h5 (1, 0, D)": (lambda p: write_h5(p, X[None, :0]), EmptyBagError, "no instance"),
    "pt N = 0": (lambda p: save(p, torch.zeros(0, 4)), EmptyBagError, "no instance"),
    "legacy pt N = 0": (lambda p: save(p, torch.zeros(0, 4), legacy=True), EmptyBagError, "no instance"),
    # not finite
    "h5 NaN": (lambda p: write_h5(p, with_value(np.nan)), NonFiniteError, "3 values"),
    "h5 Inf": (lambda p: write_h5(p, with_value(np.inf)), NonFiniteError, "2 of 5 instances"),
    "h5 float16 -Inf": (lambda p: write_h5(p, with_value(-np.inf, np.float16)), NonFiniteError, "3 values"),
    "h5 too large": (lambda p: write_h5(p, with_value(1e300, np.float64)), NonFiniteError, "for float32"),
    "pt NaN": (lambda p: save(p, torch.tensor(with_value(np.nan))), NonFiniteError, "3 values"),
    "pt too large": (
        lambda p: save(p, torch.tensor(with_value(-1e300, np.float64))),
        NonFiniteError,
        "2 of 5 instances",
    ),
    # more than tensors
    "pt that runs code": (lambda p: save(p, Malicious(p.parent / "ran")), UnsafePickleError, "mkdir"),
    "legacy pt that runs code": (
        lambda p: save(p, {"features": Malicious(p.parent / "ran")}, legacy=True),
        UnsafePickleError,
        "mkdir",
    ),
    "pickle that runs code": (
        lambda p: put(p, pickle.dumps(Malicious(p.parent / "ran"))),
        UnsafePickleError,
        "torch.save did not write",
    ),
    "pickle of protocol 0": (
        lambda p: put(p, pickle.dumps(Malicious(p.parent / "ran"), protocol=0)),
        FeatureFileError,
        "neither HDF5 nor",
    ),
    "pickle of an array": (lambda p: put(p, pickle.dumps(X)), UnsafePickleError, "torch.save(features"),
    "pt of an array": (lambda p: save(p, X), UnsafePickleError, "_reconstruct"),
    "pt of a module": (lambda p: save(p, torch.nn.Linear(2, 2)), UnsafePickleError, "Linear"),
    "pt of a path": (lambda p: save(p, {"features": torch.zeros(2, 2), "p": p}), UnsafePickleError, "pathlib"),
    "pt of pickle protocol 4": (
        lambda p: save(p, torch.zeros(2, 2), protocol=4),
        UnsafePickleError,
        "more than plain tensors",
    ),
    "torchscript": (torchscript, UnsafePickleError, "TorchScript"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    build, error, fragment = BAD[name]
    path = build(tmp_path / "slide-7.h5")
    with pytest.raises(error, match=re.escape(fragment)) as caught:
        read_features(path)
    assert type(caught.value) is error and caught.value.where == str(path) and caught.value.remedy
    assert not (tmp_path / "ran").exists()
    if error is not NonFiniteError and "GiB" not in fragment:
        with pytest.raises(error, match=re.escape(fragment)):
            read_header(path)


def test_the_malicious_payload_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_another_width_is_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "slide-7.h5", X)
    with pytest.raises(WidthError, match=r"slide-7\.h5: has 4 features per instance, expected 1536"):
        read_features(path, width=1536)


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "slide-7.h5", X)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything, nobody may not
        os.seteuid(65534)
    try:
        with pytest.raises(FeatureFileError, match=r"slide-7\.h5: cannot be opened \(Permission denied\)"):
            read_header(path)
    finally:
        os.seteuid(user)


def test_too_little_memory_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    path = write_h5(tmp_path / "slide-7.h5", X)
    monkeypatch.setattr(np, "isfinite", exhausted)
    with pytest.raises(FeatureFileError, match="does not fit into memory"):
        read_features(path)
