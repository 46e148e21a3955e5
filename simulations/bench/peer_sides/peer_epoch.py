"""An epoch of ABMIL over a site's h5 files: fedsteph's and torchmil's, of one size, loss, optimiser and batch.

torchmil is used as its documentation says: its dataset reads the same h5 files, a loader of torch's collates bags, and
its model computes the loss. Of two things it has none, and gets them here: one output per yearly bin, and the dropout
of the gated attention.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from fedsteph.client.data.bags import open_cohort
from fedsteph.client.data.settings import DataSettings
from fedsteph.common.model.base_model import BaseModel
from fedsteph.common.model.survival import bin_of, nll
from fedsteph.simulations.bench import models
from fedsteph.simulations.bench.epoch import one_epoch
from fedsteph.simulations.bench.steps import BAGS

SIDES = ("fedsteph", "fedsteph in memory", "torchmil")
_NO_LIMIT = 1e6  # GiB
_LABELS = "torchmil"  # the folder of the labels that torchmil reads, in the site's


class OwnSide:
    """fedsteph's ABMIL over a site; a ``state`` folder that is new makes the first epoch a cold one.

    By default, features of more than 2 GiB are kept on disk; ``in_memory`` keeps them all in memory, as torchmil does.
    """

    def __init__(self, site: Path, state: Path, *, in_memory: bool = False) -> None:
        self.cohort = open_cohort(site, DataSettings(cache_gib=_NO_LIMIT) if in_memory else DataSettings(), state)
        self.model = models.abmil()
        self.optimiser = models.optimiser(self.model)

    def epoch(self) -> float:
        """Train one epoch; returns the mean loss per bag, in nats."""
        return one_epoch(self.model, self.optimiser, self.cohort)["loss"]


class TorchmilSide:
    """torchmil's ABMIL over the same site, from the same initial weights; its dataset keeps each bag that it read.

    Every call of the model has one bag, and 16 bags make a step: padded batches of 16 took longer.
    """

    def __init__(self, site: Path) -> None:
        from torchmil.data import collate_fn  # noqa: PLC0415 (an extra)
        from torchmil.datasets import ProcessedMILDataset  # noqa: PLC0415

        data = ProcessedMILDataset(
            str(site / "features"), str(site / _LABELS), bag_keys=["X", "Y"], file_ext=".h5", verbose=False
        )
        self.loader = torch.utils.data.DataLoader(data, collate_fn=collate_fn)
        self.n_bags = len(data)
        self.model: Any = torchmil_model(models.abmil())
        self.optimiser = models.optimiser(self.model)

    def epoch(self) -> float:
        """Train one epoch; returns the mean loss per bag, in nats."""
        self.model.train()
        total = torch.zeros(())
        for i, batch in enumerate(self.loader):
            first = i // BAGS * BAGS  # bag of the step
            if i == first:
                self.optimiser.zero_grad(set_to_none=True)
            loss = self.model.compute_loss(batch["Y"], batch["X"], batch["mask"])[1]["_SumOfNll"]
            last = min(first + BAGS, self.n_bags) - 1
            (loss / (last + 1 - first)).backward()
            total += loss.detach()
            if i == last:
                self.optimiser.step()
        return float(total) / self.n_bags

    def without_dropout(self) -> None:
        """From now on train as torchmil's model comes."""
        for part in self.model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0


def side_of(name: str, site: Path, state: Path) -> OwnSide | TorchmilSide:
    """The side of this name, one of ``SIDES``, over a site."""
    return TorchmilSide(site) if name == "torchmil" else OwnSide(site, state, in_memory=name == "fedsteph in memory")


def write_labels(site: Path) -> None:
    """Write each slide's yearly bin and event as torchmil reads labels; its features need no preparation."""
    folder = site / _LABELS
    folder.mkdir()
    with (site / "labels.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    bins = bin_of(np.array([float(row["t"]) for row in rows]), models.SIZES.n_bins)
    for row, y in zip(rows, bins.tolist(), strict=True):
        with h5py.File(folder / f"{row['pathology_id']}.h5", "w") as file:
            file.create_dataset("labels", data=[y, int(row["e"])])


def torchmil_model(own: BaseModel) -> Any:
    """torchmil's ABMIL with the weights of one of fedsteph's, and the same dropout in its gated attention."""
    from torchmil.models import ABMIL  # noqa: PLC0415 (an extra)

    sizes = own.architecture
    embed = nn.Sequential(nn.Linear(sizes.width, sizes.embed), nn.ReLU())
    loss = _SumOfNll()
    model: Any = ABMIL((sizes.width,), sizes.attention, gated=True, feat_ext=embed, criterion=loss)
    model.pool.act_layer = nn.Sequential(nn.Tanh(), nn.Dropout(own.dropout))
    model.pool.act_gated = nn.Sequential(nn.Sigmoid(), nn.Dropout(own.dropout))
    model.classifier = nn.Linear(sizes.embed, sizes.n_bins)
    of_pool = {"pool.fc1.module": "attention_V", "pool.fc_gated.module": "attention_U"}
    layers = {"feat_ext.0": "embed", **of_pool, "classifier": "head"}
    state = own.state_dict()
    named = {f"{to}.{part}": state[f"{of}.{part}"] for to, of in layers.items() for part in ("weight", "bias")}
    # Its scores have no bias, which a softmax does not notice.
    model.load_state_dict(named | {"pool.fc2.weight": state["attention_c.weight"]})
    return model


class _SumOfNll(nn.Module):
    """fedsteph's survival loss as a criterion of torchmil: logits ``(n, n_bins)``, bins and events ``(n, 2)``."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nll(torch.sigmoid(logits), labels[:, 0].long(), labels[:, 1]).sum()
