"""Reads feature files as float32 arrays ``(n_instances, d)``; detects the format from the first bytes, not the name."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from fedsteph.client.data import numpy_file, torch_file
from fedsteph.client.data.hdf5 import feature_file
from fedsteph.client.data.source import Coords, Source, told_briefly, transposed, without_leading_one
from fedsteph.common.config.extraction import Extraction
from fedsteph.common.errors import EmptyBagError, FeatureFileError, FedstephError, NonFiniteError, WidthError

_READERS: dict[bytes, Callable[[Path], AbstractContextManager[Source]]] = {
    feature_file.MAGIC: feature_file.open_hdf5,
    numpy_file.MAGIC: numpy_file.open_npy,
    torch_file.ZIP_MAGIC: torch_file.open_torch,  # or NumPy's, see _reader
    torch_file.PICKLE_MAGIC: torch_file.open_torch,
}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
_SMALL_BYTES = 2**24  # not worth asking for the free memory
_BYTES = {"float32": 4, "float64": 12}  # per value, while it is read: as stored, and as float32
SUFFIXES = frozenset({".h5", ".hdf5", ".pt", ".pth", ".npy", ".npz", ".zarr"})  # of files that are meant to be features
_ZARR = (".zgroup", ".zarray", "zarr.json")  # files by which a folder is a zarr
_GZIP_MAGIC = b"\x1f\x8b"
_CONVERT = "save its features as .npy: docs/features.md shows how"
_AGAIN = "Copy it again from where it was made, or extract the slide again"


@dataclass(frozen=True)
class FeatureHeader:
    """Header of a feature file."""

    layout: str  # trident, clam, stamp, uni2-h, pt, npy or npz
    n_instances: int  # patches
    width: int  # d, the number of features per patch
    dtype: str  # as stored; values are always read as float32
    extraction: Extraction  # how the features were made, as far as the layout states it
    counted: bool = field(default=False, compare=False)  # whether as many coords confirm the number of instances


def is_feature_file(path: Path) -> bool:
    """Whether the first bytes are those of a supported format; False if the file is unreadable."""
    try:
        return _reader(path) is not None
    except FeatureFileError:
        return False


def is_zarr(path: Path) -> bool:
    """Whether a path is a zarr, which is a folder, as wsidata and SpatialData write it."""
    return path.is_dir() and (path.suffix == ".zarr" or any((path / name).exists() for name in _ZARR))


def slide_name(path: Path) -> str:
    """The slide that a file belongs to: its name without the ending, and without ``.gz`` after that."""
    return Path(path.name.removesuffix(".gz")).stem


def is_utf8(name: str) -> bool:
    """Whether a file's name is text, which tables and pages can hold; Linux allows names of any bytes."""
    return name.encode(errors="ignore").decode() == name


def read_header(path: Path) -> FeatureHeader:
    """Read a file's header without its values.

    Raises:
        EmptyBagError: the file has no instance.
        UnsafePickleError: a ``.pt`` file holds more than plain tensors.
        FeatureFileError: the file is unreadable or was not written in full, its layout is unknown, its values are not
            features, or it has not as many coords as features.
    """
    with _open(path) as source:
        return _header(source)


def read_features(path: Path, *, width: int | None = None) -> npt.NDArray[np.float32]:
    """Read a slide's features as a C-contiguous float32 array ``(n_instances, d)``, all finite.

    Args:
        width: the expected d; None accepts any.

    Raises:
        WidthError: d is not ``width``.
        NonFiniteError: a value is NaN or Inf, or too large for float32.
        FeatureFileError: as :func:`read_header` does; or the last rows are all zero, which is what was never written,
            or the values do not fit into memory.
    """
    with _open(path) as source:
        header = _header(source)
        if width is not None and header.width != width:
            if header.n_instances == width and not header.counted:
                raise transposed(header.n_instances, header.width)
            remedy = "Extract all slides with the encoder that the others were made with"
            raise WidthError(f"has {header.width} features per instance, expected {width}", remedy=remedy)
        _require_memory(header)
        values = np.ascontiguousarray(source.values().reshape(header.n_instances, header.width))
        bad = ~np.isfinite(values)
        if bad.any():
            raise NonFiniteError(
                f"has {bad.sum()} values that are NaN, Inf or too large for float32, "
                f"in {bad.any(axis=1).sum()} of {header.n_instances} instances",
                remedy="Extract the slide again, or list it under 'data.exclude' in site.yaml",
            )
        _require_an_end(values)
        return values


def read_coords(path: Path) -> Coords:
    """Read the patches' positions; errors as :func:`read_header`, and FeatureFileError if there is not one for each."""
    with _open(path) as source:
        header = _header(source)
        if source.coords is None:
            remedy = "Give an HDF5 file with 'coords' (N, 2); docs/features.md makes one of slide2vec's files"
            raise FeatureFileError("says nothing of where its patches lie", remedy=remedy)
        if without_leading_one(source.coords_shape or ()) != (header.n_instances, 2):
            raise _not_for_all(source, header.n_instances)
        found = source.coords()
        if not np.isfinite(found.xy).all():
            raise FeatureFileError("has coords that are no numbers", remedy="Extract the slide again")
        return found


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn the system's error on a file that is not there, or not readable for this user, into a FeatureFileError."""
    try:
        yield
    except OSError as error:
        remedy = "Check that it exists and that this user may read it"
        raise FeatureFileError(f"cannot be opened ({error.strerror})", where=path, remedy=remedy) from error


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    """Open ``path``, and turn the errors of all libraries into typed errors that name the file."""
    reader = _reader(path)
    try:
        if reader is None:
            remedy = "Store features as TRIDENT or CLAM do, or with torch.save or numpy.save"
            raise FeatureFileError("is neither HDF5 nor a .pt, .npy or .npz file", remedy=remedy)
        with reader(path) as source:
            yield source
    except FedstephError as error:
        raise type(error)(error.what, where=path, remedy=error.remedy) from error
    except MemoryError as error:
        remedy = "Use a machine with more memory"
        raise FeatureFileError("does not fit into memory", where=path, remedy=remedy) from error
    # HDF5 and pickle may raise almost any exception on a damaged file.
    except Exception as error:
        what = f"is truncated, damaged or not readable ({told_briefly(error)})"
        raise FeatureFileError(what, where=path, remedy=_AGAIN) from error


def _reader(path: Path) -> Callable[[Path], AbstractContextManager[Source]] | None:
    """The reader that matches the file's first bytes; None if there is none."""
    with opening(path):
        # Opening a named pipe would block forever.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            if is_zarr(path):
                what = "is a zarr folder, as wsidata and SpatialData write it, and not read"
                raise FeatureFileError(what, where=path, remedy=_CONVERT[0].upper() + _CONVERT[1:])
            kind = _KINDS.get(stat.S_IFMT(mode), "a device")
            raise FeatureFileError(f"is {kind}, not a file", where=path, remedy="Give the path of a feature file")
        with path.open("rb") as file:
            head = file.read(len(feature_file.MAGIC))
    if not head:
        raise FeatureFileError("is empty (0 bytes)", where=path, remedy=_AGAIN)
    if head.startswith(_GZIP_MAGIC):
        what = "is packed with gzip, as the tables of Bioconductor's imageFeatureTCGA are, and not read"
        raise FeatureFileError(what, where=path, remedy=f"Unpack it, or, if it is such a table, {_CONVERT}")
    if head.startswith(torch_file.ZIP_MAGIC) and numpy_file.is_npz(path):
        return numpy_file.open_npz
    return next((reader for magic, reader in _READERS.items() if head.startswith(magic)), None)


def _header(source: Source) -> FeatureHeader:
    shape = without_leading_one(source.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise FeatureFileError(
            f"has features of shape {source.shape}, not (n_instances, d)",
            remedy="Store one row of features per patch; one vector per slide is no bag",
        )
    if not source.floating:
        raise FeatureFileError(
            f"has features of type {source.dtype}, not floating-point numbers",
            remedy="Store the encoder's output as float16, float32 or float64",
        )
    if shape[0] == 0:
        remedy = "List the slide under 'data.exclude' in site.yaml, or extract it again"
        raise EmptyBagError("has no instance", remedy=remedy)
    if source.coords_shape is not None and without_leading_one(source.coords_shape)[:1] != shape[:1]:
        if without_leading_one(source.coords_shape) == (shape[1], 2):
            raise transposed(*shape)
        raise _not_for_all(source, shape[0])
    counted = source.coords_shape is not None
    return FeatureHeader(source.layout, shape[0], shape[1], source.dtype, source.extraction, counted)


def _not_for_all(source: Source, n_instances: int) -> FeatureFileError:
    return FeatureFileError(
        f"has coords of shape {source.coords_shape} for {n_instances} instances", remedy="Extract the slide again"
    )


def _require_memory(header: FeatureHeader) -> None:
    """Compare a size that a file states with the free memory, before any of it is taken."""
    needed = header.n_instances * header.width * _BYTES.get(header.dtype, 6)
    if needed >= _SMALL_BYTES and needed > (free := psutil.virtual_memory().available):
        raise FeatureFileError(
            f"states {header.n_instances} x {header.width} features, which need {needed / 2**30:.1f} GiB of memory, "
            f"and {free / 2**30:.1f} are free",
            remedy="If that is its true size, use a machine with more memory; else extract the slide again",
        )


def _require_an_end(values: npt.NDArray[np.float32]) -> None:
    """Rows at the end that are all zero are no patches: their writing was cut short, or they are padding."""
    if values[-1].any():
        return
    last = np.flatnonzero(values.any(axis=1))
    empty = len(values) - (int(last[-1]) + 1 if len(last) else 0)
    raise FeatureFileError(
        f"has only zeros in its last {empty} of {len(values)} instances",
        remedy="Its writing was cut short, or it was padded: extract the slide again",
    )
