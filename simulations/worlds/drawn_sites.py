"""Draws the sites of a synthetic world, and writes them as site folders.

The model, for a site c, patient i, instance j:

- phenotypes ``p`` have centres ``mu_p ~ N(0, 2^2 I_d)``; four are shared by all patients, and each disease has two more
  of its own;
- a patient's tissue composition is ``pi_i ~ Dirichlet(1)`` over the six phenotypes of its disease;
- an instance is ``x_ij = mu_p + delta_c + eps``, ``p ~ pi_i``, ``delta_c ~ N(0, 0.3^2 I_d)`` (stain and
  scanner), ``eps ~ N(0, 2^2 I_d)``; a patient has 1 to 3 slides, a slide has 12 to 32 instances;
- the true log-hazard is ``eta_i = sum_p beta_p (pi_ip - 1/6) / sd(pi_p)``, with the ``beta`` of the patient's disease;
- survival is Weibull, ``T_i = 365 * s * (E_i / exp(eta_i))^(1/1.2)`` days, ``E_i ~ Exp(1)``; follow-up is
  ``C_i ~ Exp(mean kappa_c)``, with ``kappa_c`` set so that the site's share of events is as in TCGA (0.15 to
  0.5); ``t = min(T, C)``, ``e = 1`` where ``T <= C``.

``true_risk.csv`` beside the labels holds ``eta`` for the oracle row of the report, and the kinds of diseases that have
a name.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from fedsteph.client.data.tables.labels import Patient
from fedsteph.client.data.tables.splits import make_splits
from fedsteph.client.site.site_file import SITE_FILE
from fedsteph.simulations.worlds.world import N_OWN, N_SHARED, Disease, SiteModel, World

TRUTH_FILE = "true_risk.csv"
WIDTH = 64


def write_world(folder: Path, world: World, seed: int, n_folds: int = 5) -> list[Path]:
    """Write a world's sites into ``folder``: TRIDENT files, labels, splits, true risks; returns their folders."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 2.0, (N_SHARED, WIDTH))
    tissue = {kind: rng.normal(0, 2.0, (N_OWN, WIDTH)) for kind in world.kinds}
    folders = []
    for index, site in enumerate(world.sites):
        own_rng = np.random.default_rng([seed, index])
        own = [tissue[one.kind] if one.kind else own_rng.normal(0, 2.0, (N_OWN, WIDTH)) for one in site.diseases]
        folders.append(folder / site.name)
        _write_site(folder / site.name, site, [np.vstack([shared, centres]) for centres in own], own_rng)
        _write_splits(folder / site.name, n_folds, seed)
        if site.cancer is not None:
            (folder / site.name / SITE_FILE).write_text(f"cancer: {site.cancer}\n", encoding="utf-8")
    return folders


def _write_site(folder: Path, site: SiteModel, centres: Sequence[np.ndarray], rng: np.random.Generator) -> None:
    """``centres``: of the phenotypes of each of the site's diseases, ``(n_phenotypes, d)``."""
    features = folder / "features"
    features.mkdir(parents=True, exist_ok=True)
    n, name = site.n_patients, site.name.upper()
    which = rng.integers(len(site.diseases), size=n) if len(site.diseases) > 1 else np.zeros(n, int)
    composition = rng.dirichlet(np.ones(N_SHARED + N_OWN), n)
    eta = _log_hazard(composition, site.diseases, which)
    t, e = _outcomes(eta, site.event_share, rng)
    if site.shuffled:
        order = rng.permutation(n)
        t, e = t[order], e[order]
    shift = rng.normal(0, 0.3, WIDTH)
    rows = []
    for i in range(n):
        for k in range(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])):
            slide, of_patient = f"{name}-{i:04d}-DX{k + 1}", centres[which[i]]
            phenotype = rng.choice(len(of_patient), size=rng.integers(12, 33), p=composition[i])
            bag = of_patient[phenotype] + shift + rng.normal(0, 2.0, (len(phenotype), WIDTH))
            _write_slide(features / f"{slide}.h5", bag.astype(np.float32))
            rows.append((f"{name}-{i:04d}", slide, site.name, round(float(t[i]), 1), int(e[i])))
    labels = pd.DataFrame(rows, columns=["patient_id", "pathology_id", "project", "t", "e"])
    labels.to_csv(folder / "labels.csv", index=False)
    truth = pd.DataFrame({"patient_id": labels["patient_id"].unique(), "risk": eta})
    if all(one.kind for one in site.diseases):
        truth["kind"] = [site.diseases[k].kind for k in which]
    truth.to_csv(folder / TRUTH_FILE, index=False)


def _log_hazard(composition: np.ndarray, diseases: Sequence[Disease], which: np.ndarray) -> np.ndarray:
    """``eta (n_patients,)`` of ``composition (n_patients, n_phenotypes)`` and each patient's disease."""
    standard = (composition - 1 / composition.shape[1]) / composition.std(axis=0)
    by_disease = np.stack([standard @ np.array([*one.shared, *one.own]) for one in diseases])
    found: np.ndarray = by_disease[which, np.arange(len(which))]
    return found


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


def _write_splits(folder: Path, n_folds: int, seed: int) -> None:
    patients = pd.read_csv(folder / "labels.csv", dtype={"patient_id": str}).drop_duplicates("patient_id")
    listed = [
        Patient(str(p), float(t), int(e), ()) for p, t, e in patients[["patient_id", "t", "e"]].itertuples(index=False)
    ]
    for k, split in enumerate(make_splits(listed, n_folds, seed)):
        parts = {"train": pd.Series(split.train), "test": pd.Series(split.test)}
        pd.DataFrame(parts).to_csv(folder / f"splits_{k}.csv")
