"""Small real site folders for tests: TRIDENT files, labels and splits, with a signal a model can learn."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd


def make_site(
    folder: Path,
    *,
    patients: int = 24,
    width: int = 6,
    event_share: float = 0.5,
    seed: int = 0,
    folds: int = 2,
    encoder: str = "test-encoder",
    magnification: float = 20,
    patch_size: float = 256,
    max_instances: int = 9,
) -> Path:
    """Write a site whose risk is the mean of the first feature; every fifth patient has two slides."""
    rng = np.random.default_rng(seed)
    (folder / "features").mkdir(parents=True)
    rows = []
    for i in range(patients):
        risk = rng.normal()
        t = float(rng.exponential(1500 * np.exp(-risk))) + 1
        e = int(i < event_share * patients)
        for k in range(2 if i % 5 == 0 else 1):
            slide = f"P{i:03d}-DX{k + 1}"
            bag = rng.normal(size=(rng.integers(2, max_instances + 1), width)).astype(np.float32)
            bag[:, 0] += 2 * risk
            with h5py.File(folder / "features" / f"{slide}.h5", "w") as file:
                file.create_dataset("features", data=bag).attrs["encoder"] = encoder
                coords = file.create_dataset("coords", data=np.zeros((len(bag), 2), dtype=np.int64))
                coords.attrs.update(target_magnification=magnification, patch_size=patch_size)
            rows.append((f"P{i:03d}", slide, f"TEST {i % 2}", t, e))  # of two projects, so of no one cancer
    pd.DataFrame(rows, columns=["patient_id", "pathology_id", "project", "t", "e"]).to_csv(
        folder / "labels.csv", index=False
    )
    ids = np.array(sorted({row[0] for row in rows}))
    for k in range(folds):
        test = ids[k::folds] if folds > 1 else ids[::4]
        parts = {"train": pd.Series(sorted({*ids} - {*test})), "test": pd.Series(test)}
        pd.DataFrame(parts).to_csv(folder / f"splits_{k}.csv")
    return folder


TINY = [
    "preset=null",
    "model.embed=8",
    "model.attention=6",
    "training.epochs=2",
    "steph.inner_folds=2",
    "steph.gamma_grid=[0.0,0.05]",
    "evaluation.folds=2",
    "evaluation.bootstrap=20",
    "final.members=1",
]

CLINICAL = "data: {clinical: {age: numeric, sex: category, stage: [I, II, III]}}\n"


def add_clinical(folder: Path, seed: int = 0) -> None:
    """Add an age that tells of the time, a sex, and a stage that every fourth patient lacks; name them in site.yaml."""
    table = pd.read_csv(folder / "labels.csv", dtype={"patient_id": str})
    rng, first = np.random.default_rng(seed), table.drop_duplicates("patient_id")
    ages = (70 - 5 * np.log(first["t"] / 500) + rng.normal(0, 5, len(first))).round(1)
    age = dict(zip(first["patient_id"], ages, strict=True))
    stage = {one: "" if i % 4 == 0 else rng.choice(["I", "II", "III"]) for i, one in enumerate(age)}
    sex = {one: rng.choice(["MALE", "FEMALE"]) for one in age}
    for name, values in (("age", age), ("sex", sex), ("stage", stage)):
        table[name] = table["patient_id"].map(values)
    table.to_csv(folder / "labels.csv", index=False)
    (folder / "site.yaml").write_text(CLINICAL)
