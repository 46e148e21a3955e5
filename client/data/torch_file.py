"""Reads feature files from ``torch.save``: a tensor, or a dict with ``features``; never runs code from a file.

CLAM and slide2vec write bare tensors (N, D), which name no encoder; their coords are in other files.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedsteph.client.data.source import Source, no_features_key, too_few_bytes
from fedsteph.common.errors import FeatureFileError, UnsafePickleError

if TYPE_CHECKING:
    import torch

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PICKLE_MAGIC = b"\x80"

_REMEDY = "Save the features alone, as a float tensor: torch.save(features, path)"


@contextmanager
def open_torch(path: Path) -> Iterator[Source]:
    """Load a ``.pt`` file of either format with PyTorch's restricted unpickler.

    The newer (zip) format is memory-mapped, so that reading the header does not read the values.

    Raises:
        UnsafePickleError: the file holds more than tensors and plain containers. No code in it was run.
        FeatureFileError: it holds no dense tensor, or fewer values than its shape declares.
    """
    import torch  # noqa: PLC0415 (seconds to import, and HDF5 files do not need it)

    content = load_plain(path, _REMEDY)
    if isinstance(content, Mapping):
        if "features" not in content:
            raise no_features_key(sorted(map(str, content)))
        content = content["features"]
    if not isinstance(content, torch.Tensor):
        raise FeatureFileError(f"holds a {type(content).__name__}, not a tensor", remedy=_REMEDY)
    if content.layout is not torch.strided or content.is_meta or content.is_quantized:
        raise FeatureFileError("holds a tensor that is not dense", remedy=_REMEDY)
    tensor = content.detach()
    dtype = str(tensor.dtype).removeprefix("torch.")
    yield Source("pt", tuple(tensor.shape), dtype, tensor.is_floating_point(), lambda: _values(tensor))


def load_plain(path: Path, remedy: str) -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain containers; tensors of the newer format are memory-mapped.

    Raises:
        UnsafePickleError: it holds more, or is another pickle; with ``remedy``. No code in it was run.
        RuntimeError, OSError, EOFError and others of torch: it is damaged.
    """
    import torch  # noqa: PLC0415 (as above)

    with path.open("rb") as file:
        head = file.read(len(LEGACY_MAGIC))
    if not head.startswith(ZIP_MAGIC) and head != LEGACY_MAGIC:
        raise UnsafePickleError("is a pickle that torch.save did not write", remedy=remedy)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP_MAGIC))
    except (pickle.UnpicklingError, RuntimeError) as error:
        found = re.search(r"(?<=GLOBAL )\S+|TorchScript", str(error))
        if found is None and isinstance(error, RuntimeError):
            raise
        name = f" ({found[0]})" if found else ""
        raise UnsafePickleError(f"holds more than plain tensors{name}", remedy=remedy) from error


def _values(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    # An expanded view can repeat a few stored values so often that a copy would fill the memory.
    import torch  # noqa: PLC0415 (as above)

    stored, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    if stored < needed:
        raise too_few_bytes(stored, needed)
    values: npt.NDArray[np.float32] = tensor.to(torch.float32, copy=True).numpy()
    return values
