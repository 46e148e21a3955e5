"""Atomic writes: a file is either the old one or the whole new one, never a part."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write ``parts`` one after the other to ``path``, through a temporary file in the same folder that is flushed to
    disk first; an array given as its memory is not copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            for part_of_it in parts:
                file.write(part_of_it)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write named arrays as numpy's ``.npz`` atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_json(path: Path, content: Any) -> None:
    """Write indented, strict JSON (NaN refused) atomically."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
