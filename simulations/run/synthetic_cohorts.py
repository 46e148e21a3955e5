"""Generates six synthetic hospital sites as site folders, like those of real hospitals.

The model, for a site c, patient i, instance j:

- phenotypes ``p`` have centres ``mu_p ~ N(0, 2^2 I_d)``; four are shared by all cancers, and each cancer has two more
  of its own;
- a patient's tissue composition is ``pi_i ~ Dirichlet(1)`` over the six phenotypes of its cancer;
- an instance is ``x_ij = mu_p + delta_c + eps``, ``p ~ pi_i``, ``delta_c ~ N(0, 0.3^2 I_d)`` (stain and
  scanner), ``eps ~ N(0, 2^2 I_d)``; a patient has 1 to 3 slides, a slide has 12 to 32 instances;
- the true log-hazard is ``eta_i = sum_p beta_cp (pi_ip - 1/6) / sd(pi_p)``;
- survival is Weibull, ``T_i = 365 * s * (E_i / exp(eta_i))^(1/1.2)`` days, ``E_i ~ Exp(1)``; follow-up is
  ``C_i ~ Exp(mean kappa_c)``, with ``kappa_c`` set so that the site's share of events is as in TCGA (0.15 to
  0.5); ``t = min(T, C)``, ``e = 1`` where ``T <= C``.

The sites' relation to the target depends only on ``beta``: ``kin`` shares its prognostic phenotypes, ``cousin`` half
of them, and ``stranger`` none; ``conflict`` has them with the opposite sign. The labels of ``careless`` are shuffled
between its patients, so its model learns noise. Nothing is tuned in favour of merging. ``true_risk.csv`` beside the
labels holds ``eta`` for the oracle row of the report.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.data.tables.splits import make_splits

TARGET = "target"
TRUTH_FILE = "true_risk.csv"
WIDTH = 64
_SHARED, _OWN = 4, 2
_BETA = np.array([0.9, -0.7, 0.5, 0.0])


@dataclass(frozen=True)
class SiteModel:
    """Parameters of one site: size, share of events, and ``beta``."""

    name: str
    n_patients: int
    event_share: float
    shared: tuple[float, ...]  # beta of the shared phenotypes
    own: tuple[float, ...]  # beta of the cancer's own phenotypes
    shuffled: bool = False  # outcomes are permuted between the patients


WORLD = (
    SiteModel(TARGET, 120, 0.35, tuple(_BETA), (0.4, 0.0)),
    SiteModel("kin", 240, 0.45, tuple(_BETA), (0.0, 0.4)),
    SiteModel("cousin", 180, 0.30, (0.9, -0.7, 0.0, 0.0), (0.5, -0.5)),
    SiteModel("stranger", 180, 0.35, (0.0, 0.0, 0.0, 0.0), (0.9, -0.9)),
    SiteModel("conflict", 200, 0.50, tuple(-_BETA), (0.0, 0.0)),
    SiteModel("careless", 60, 0.15, tuple(_BETA), (0.0, 0.0), shuffled=True),
)


def write_world(folder: Path, seed: int, n_folds: int = 5) -> list[Path]:
    """Write the six sites into ``folder``: TRIDENT files, labels, splits, true risks; returns their folders."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 2.0, (_SHARED, WIDTH))
    folders = []
    for index, site in enumerate(WORLD):
        own_rng = np.random.default_rng([seed, index])
        centres = np.vstack([shared, own_rng.normal(0, 2.0, (_OWN, WIDTH))])
        folders.append(folder / site.name)
        _write_site(folder / site.name, site, centres, own_rng, seed, n_folds)
    return folders


def _write_site(
    folder: Path, site: SiteModel, centres: np.ndarray, rng: np.random.Generator, seed: int, n_folds: int
) -> None:
    features = folder / "features"
    features.mkdir(parents=True, exist_ok=True)
    n = site.n_patients
    composition = rng.dirichlet(np.ones(len(centres)), n)
    beta = np.array([*site.shared, *site.own])
    eta = ((composition - 1 / len(centres)) / composition.std(axis=0)) @ beta
    t, e = _outcomes(eta, site.event_share, rng)
    if site.shuffled:
        order = rng.permutation(n)
        t, e = t[order], e[order]
    shift = rng.normal(0, 0.3, WIDTH)
    rows = []
    for i in range(n):
        for k in range(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])):
            slide = f"{site.name.upper()}-{i:04d}-DX{k + 1}"
            phenotype = rng.choice(len(centres), size=rng.integers(12, 33), p=composition[i])
            bag = centres[phenotype] + shift + rng.normal(0, 2.0, (len(phenotype), WIDTH))
            _write_slide(features / f"{slide}.h5", bag.astype(np.float32))
            rows.append((f"{site.name.upper()}-{i:04d}", slide, site.name, round(float(t[i]), 1), int(e[i])))
    labels = pd.DataFrame(rows, columns=["patient_id", "pathology_id", "project", "t", "e"])
    labels.to_csv(folder / "labels.csv", index=False)
    patients = labels.drop_duplicates("patient_id")
    truth = pd.DataFrame({"patient_id": patients["patient_id"], "risk": eta})
    truth.to_csv(folder / TRUTH_FILE, index=False)
    _write_splits(folder, patients, n_folds, seed)


def _outcomes(eta: np.ndarray, event_share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    survival = 365.0 * 6.0 * (rng.exponential(size=len(eta)) / np.exp(eta)) ** (1 / 1.2)
    unit = rng.exponential(size=len(eta))
    low, high = 1e-3, 1e7
    for _ in range(60):  # bisection on kappa: the share of events grows with the follow-up
        kappa = np.sqrt(low * high)
        low, high = (kappa, high) if (survival <= kappa * unit).mean() < event_share else (low, kappa)
    follow_up = high * unit
    return np.minimum(survival, follow_up).clip(min=1.0), (survival <= follow_up).astype(int)


def _write_slide(path: Path, bag: np.ndarray) -> None:
    content = io.BytesIO()  # on a full disk, HDF5 itself ends the whole process
    with h5py.File(content, "w") as file:
        features = file.create_dataset("features", data=bag)
        features.attrs["encoder"] = f"fedsteph-synthetic-{WIDTH}"
        coords = np.stack([256 * np.arange(len(bag)), np.zeros(len(bag))], axis=1).astype(np.int64)
        file.create_dataset("coords", data=coords).attrs.update(
            patch_size=256, patch_size_level0=256, level0_magnification=20, target_magnification=20
        )
    path.write_bytes(content.getvalue())


def _write_splits(folder: Path, patients: pd.DataFrame, n_folds: int, seed: int) -> None:
    listed = [
        Patient(str(p), float(t), int(e), ()) for p, t, e in patients[["patient_id", "t", "e"]].itertuples(index=False)
    ]
    for k, split in enumerate(make_splits(listed, n_folds, seed)):
        parts = {"train": pd.Series(split.train), "test": pd.Series(split.test)}
        pd.DataFrame(parts).to_csv(folder / f"splits_{k}.csv")
