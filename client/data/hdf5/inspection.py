"""Inspects an HDF5 feature file without reading its values: links, types, attributes, and where the values are stored.

HDF5's library can crash or loop for ever on a damaged file, so only the helper process (header_service.py) runs this.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fedsteph.client.data.hdf5.opening import open_to_read
from fedsteph.client.data.hdf5.storage_map import places_of
from fedsteph.client.data.hdf5.structure import COORDS, FEATURES, STAMP_FEATURES, Structure
from fedsteph.client.data.source import no_features_key
from fedsteph.common.errors import FeatureFileError

_MOST_LINKS = 8  # soft links in a row
# Of HDF5's registered filters, those that files of features are often packed with.
_FILTERS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}


def inspect(path: Path, every_chunk: bool) -> Structure:
    """Inspect the dataset ``features``, or else ``feats``, and, if present, ``coords``.

    Raises:
        FeatureFileError: there is no such dataset, it was not written in full, is in another file, needs a filter that
            is not installed, or holds one vector for all patches; or another program writes the file.
        Exception: any other, from HDF5, if the file is damaged.
    """
    with open_to_read(path) as file:
        name = next((name for name in (FEATURES, STAMP_FEATURES) if _follow(file, name) is not None), FEATURES)
        features, coords = _follow(file, name), _follow(file, COORDS)
        if features is None:
            raise no_features_key(sorted(file, key=str))
        if not isinstance(features, h5py.Dataset):
            raise FeatureFileError(f"'{name}' is a group", remedy="Store one dataset (n_instances, d) there")
        numbers = coords if isinstance(coords, h5py.Dataset) and coords.dtype.kind in "iuf" else None
        present = [dataset for dataset in (features, numbers) if dataset is not None]
        for dataset in present:
            _require_plain(dataset)
            _require_filters(dataset)
        _require_patches(file)
        places = places_of(present, path.stat().st_size, every_chunk)
        return Structure(
            tuple(features.shape or ()),
            features.dtype.name,
            features.dtype.kind == "f",
            _text(features.attrs.get("encoder")) or (_text(file.attrs.get("extractor")) if name != FEATURES else None),
            None if coords is None else _number(coords.attrs.get("target_magnification")),
            None if numbers is None else tuple(numbers.shape or ()),
            name,
            {name: value for one in (file, *present) for name, value in _facts(one).items()},
            next((unit for one in (numbers, file) if one is not None and (unit := _text(one.attrs.get("unit")))), None),
            places[0],
            None if numbers is None else places[1],
        )


def _follow(group: Any, name: str, left: int = _MOST_LINKS) -> Any:
    """The object of that name, None if there is none; no link to another file is ever opened."""
    here = group.file if name.startswith("/") else group
    for part in (part for part in name.split("/") if part not in ("", ".")):
        key = part.encode(errors="surrogateescape")
        if not isinstance(here, h5py.Group) or not here.id.links.exists(key):
            return None
        kind = here.id.links.get_info(key).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            raise FeatureFileError(
                f"holds a link to another file under '{part}'", remedy="Store the features in the file itself"
            )
        if kind != h5py.h5l.TYPE_SOFT:
            here = here[part]
        elif left:
            here = _follow(here, here.id.links.get_val(key).decode(errors="surrogateescape"), left - 1)
        else:
            raise FeatureFileError(f"has links that lead in a circle at '{part}'", remedy="Store the features there")
    return here


def _require_plain(dataset: Any) -> None:
    """Numbers must be of a type that NumPy writes: a damaged description of a type changes every value."""
    if dataset.dtype.kind in "iuf" and dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
        raise FeatureFileError(
            f"has numbers of an unusual type, close to {dataset.dtype.name}",
            remedy="Store features as float16, float32 or float64",
        )


def _require_filters(dataset: Any) -> None:
    settings = dataset.id.get_create_plist()
    for code in (settings.get_filter(i)[0] for i in range(settings.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            known = f" ({_FILTERS[code]})" if code in _FILTERS else ""
            what = f"is packed with HDF5's filter {code}{known}, which is not installed here"
            remedy = "Store it again where the filter is installed: h5repack -f GZIP=4 SLIDE.h5 NEW.h5"
            raise FeatureFileError(what, remedy=remedy)


def _require_patches(file: Any) -> None:
    """STAMP states whether the rows of a file are tiles, a slide or a patient."""
    kind = _text(file.attrs.get("feat_type"))
    if kind in ("slide", "patient"):
        raise FeatureFileError(
            f"holds one vector for a {kind}, not one for each patch",
            remedy="Give the files that STAMP's 'preprocess' writes, not those of its encoders of slides and patients",
        )


def _facts(holder: Any) -> dict[str, float]:
    """The numbers among the attributes of a file or a dataset, by name."""
    found = {}
    for name in holder.attrs:
        try:
            number = _number(holder.attrs[name])
        except TypeError:  # a type that NumPy lacks
            continue
        if number is not None and isinstance(name, str):  # h5py gives bytes for a name that is no text
            found[name] = number
    return found


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    try:
        number = float(value) if np.ndim(value) == 0 else float(np.max(value))  # CLAM stores one number per axis
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
