"""The benchmark of reading bags: every layout, both ways of keeping, and figures that strict JSON can hold."""

from __future__ import annotations

import json

from fedsteph.simulations.bench.data_path import LAYOUTS, measure


def test_every_layout_is_measured_in_both_ways() -> None:
    found = json.loads(json.dumps(measure(n_slides=2, n_instances=50, width=8, repeats=2), allow_nan=False))
    assert found["layouts"].keys() == LAYOUTS.keys()
    for row in found["layouts"].values():
        assert all(row[kind]["repeats"] == 2 and row[kind]["median"] > 0 for kind in ("h5py", "stored", "float16"))
        assert row["stored_vs_h5py"] == row["h5py"]["median"] / row["stored"]["median"]
        assert row["first_stored"] > 0 and row["first_float16"] > 0
    assert found["io_cached_vs_h5py"] == found["layouts"]["one-row chunks, float32"]["stored_vs_h5py"]
