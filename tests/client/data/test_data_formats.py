"""Every layout gives the same bag, and bytes at random a typed error."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_builders import features, h5_bytes, pt_bytes, put, save, write_h5
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsteph.client.data.formats import FeatureHeader, is_feature_file, read_features, read_header
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.errors import FedstephError

X = features()


def numpy_file(path: Path, values: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, values)
    return path


def npz_file(path: Path, write: Callable[..., None] = np.savez, **arrays: np.ndarray) -> Path:
    with path.open("wb") as file:
        write(file, **arrays)
    return path


GOOD: dict[str, tuple[Callable[[Path], Path], FeatureHeader]] = {
    "trident": (
        lambda f: write_h5(f / "a.h5", X, encoder="uni_v2", magnification=20, patch_size=512),
        FeatureHeader("trident", 5, 4, "float32", Extraction("uni_v2", 20.0, 512.0)),
    ),
    "trident without encoder": (
        lambda f: write_h5(f / "a.h5", X, magnification=20),
        FeatureHeader("trident", 5, 4, "float32", Extraction(None, 20.0)),
    ),
    "encoder as bytes": (
        lambda f: write_h5(f / "a.h5", X, encoder=np.bytes_(b"uni_v2")),
        FeatureHeader("trident", 5, 4, "float32", Extraction("uni_v2", None)),
    ),
    "clam": (lambda f: write_h5(f / "a.h5", X), FeatureHeader("clam", 5, 4, "float32", Extraction())),
    "odd attributes": (
        lambda f: write_h5(f / "a.h5", X, encoder=7, magnification="twenty"),
        FeatureHeader("clam", 5, 4, "float32", Extraction()),
    ),
    "no patch": (
        lambda f: write_h5(f / "a.h5", X, magnification=-1, patch_size=0),
        FeatureHeader("trident", 5, 4, "float32", Extraction()),
    ),
    "infinite magnification": (
        lambda f: write_h5(f / "a.h5", X, magnification=float("inf")),
        FeatureHeader("clam", 5, 4, "float32", Extraction()),
    ),
    "uni2-h": (
        lambda f: write_h5(f / "a.h5", X[None]),
        FeatureHeader("uni2-h", 5, 4, "float32", Extraction()),
    ),
    "stamp": (
        lambda f: write_h5(f / "a.h5", X.astype(np.float32), key="feats"),
        FeatureHeader("stamp", 5, 4, "float32", Extraction()),
    ),
    "npy": (lambda f: numpy_file(f / "a.npy", X), FeatureHeader("npy", 5, 4, "float32", Extraction())),
    "npy (1, N, D), big endian, by columns": (
        lambda f: numpy_file(f / "a.npy", np.asfortranarray(X[None].astype(">f8"))),
        FeatureHeader("npy", 5, 4, "float64", Extraction()),
    ),
    "npz": (lambda f: npz_file(f / "a.npz", features=X), FeatureHeader("npz", 5, 4, "float32", Extraction())),
    "npz called pt, compressed": (
        lambda f: npz_file(f / "a.pt", np.savez_compressed, features=X, coords=np.zeros((5, 2))),
        FeatureHeader("npz", 5, 4, "float32", Extraction()),
    ),
    "float64": (
        lambda f: write_h5(f / "a.h5", X.astype(np.float64)),
        FeatureHeader("clam", 5, 4, "float64", Extraction()),
    ),
    "big endian": (
        lambda f: write_h5(f / "a.h5", X.astype(">f4")),
        FeatureHeader("clam", 5, 4, "float32", Extraction()),
    ),
    "gzip": (
        lambda f: write_h5(f / "a.h5", X, compression="gzip"),
        FeatureHeader("clam", 5, 4, "float32", Extraction()),
    ),
    "h5 called pt": (
        lambda f: write_h5(f / "a.pt", X),
        FeatureHeader("clam", 5, 4, "float32", Extraction()),
    ),
    "pt": (
        lambda f: save(f / "a.pt", torch.tensor(X)),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt called h5": (
        lambda f: save(f / "a.h5", torch.tensor(X)),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt legacy": (
        lambda f: save(f / "a.pt", torch.tensor(X), legacy=True),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt dict": (
        lambda f: save(f / "a.pt", {"features": torch.tensor(X), "coords": torch.zeros(5, 2)}),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt ordered dict, legacy": (
        lambda f: save(f / "a.pt", OrderedDict(features=torch.tensor(X)), legacy=True),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt (1, N, D)": (
        lambda f: save(f / "a.pt", torch.tensor(X)[None]),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt float64": (
        lambda f: save(f / "a.pt", torch.tensor(X).double()),
        FeatureHeader("pt", 5, 4, "float64", Extraction()),
    ),
    "pt transposed": (
        lambda f: save(f / "a.pt", torch.tensor(X.T.copy()).T),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
    "pt parameter": (
        lambda f: save(f / "a.pt", torch.nn.Parameter(torch.tensor(X))),
        FeatureHeader("pt", 5, 4, "float32", Extraction()),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_layout_gives_the_same_bag(name: str, tmp_path: Path) -> None:
    build, header = GOOD[name]
    path = build(tmp_path)
    assert read_header(path) == header and is_feature_file(path)
    values = read_features(path, width=4)
    assert values.dtype == np.float32 and values.dtype.isnative and values.flags.c_contiguous and values.flags.writeable
    np.testing.assert_array_equal(values, X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors(dtype: torch.dtype, tmp_path: Path) -> None:
    half = torch.tensor(X).to(dtype)
    path = save(tmp_path / "a.pt", half)
    assert read_header(path).dtype == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(read_features(path), half.float().numpy())


def test_half_precision_hdf5(tmp_path: Path) -> None:
    half = X.astype(np.float16)
    path = write_h5(tmp_path / "a.h5", half)
    assert read_header(path).dtype == "float16"
    np.testing.assert_array_equal(read_features(path), half.astype(np.float32))


def test_one_instance_is_a_bag(tmp_path: Path) -> None:
    assert read_features(write_h5(tmp_path / "a.h5", X[:1])).shape == (1, 4)


def test_a_header_is_read_without_the_values(tmp_path: Path) -> None:
    """Which would be refused."""
    assert read_header(write_h5(tmp_path / "a.h5", np.full((2, 3), np.nan))).width == 3


MAGICS = st.sampled_from([b"", h5_bytes()[:8], h5_bytes()[:96], b"PK\x03\x04", b"\x80\x02", pt_bytes(1)[:80]])
LEGACY = pt_bytes({"features": torch.tensor(X)}, legacy=True)


@settings(max_examples=50)
@given(head=MAGICS | st.just(LEGACY[:15]) | st.just(LEGACY[:80]), tail=st.binary(max_size=300))
def test_random_bytes_give_typed_errors_only(head, tail, tmp_path_factory) -> None:
    path = put(tmp_path_factory.getbasetemp() / "random.h5", head + tail)
    with pytest.raises(FedstephError):
        read_features(path)


VALID = {"h5": h5_bytes(), "pt": pt_bytes({"features": torch.tensor(X)}), "legacy pt": LEGACY}


@pytest.mark.parametrize("name", VALID)
@settings(max_examples=80)
@given(data=st.data())
def test_truncation_gives_a_typed_error_or_the_right_bag(name, data, tmp_path_factory) -> None:
    whole = VALID[name]
    length = data.draw(st.integers(0, len(whole)))
    path = put(tmp_path_factory.getbasetemp() / "cut.h5", whole[:length])
    try:
        values = read_features(path)
    except FedstephError:
        assert length < len(whole)
    else:
        np.testing.assert_array_equal(values, X)
