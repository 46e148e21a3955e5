"""Loss landscape over a plane of merges, ``theta_0 + a tau_t + b s``, with the path and the end of training.

``s`` is the mean of the sources' vectors, each weighted by its mean coefficient over the training patients, so that
STEPH's own merges lie close to the plane. The head is always the enhanced model's. Large cohorts and bags are sampled;
the figure gives the numbers of patients and instances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsteph.client.data.bags import Cohort
from fedsteph.client.steph.model import Steph
from fedsteph.client.steph.usage import usage
from fedsteph.client.training.loop import derive_seed
from fedsteph.common.host.progress import Progress, silent
from fedsteph.common.model.architecture import Architecture
from fedsteph.common.model.encode import encode
from fedsteph.common.model.survival import bin_of, nll
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.page import Picture, Table
from fedsteph.common.report.style import GRADED, WIDTH, canvas
from fedsteph.common.vector.task_vector import cut

_A, _B = "coefficient of the target's vector", "coefficient of the sources"
_MERGE = method_look("steph")
_BAGS_PER_STACK = 16
SMOOTH = 1.0  # standard deviation of the Gaussian filter, in grid steps
Parts = Mapping[str, Cohort]  # training, test


@dataclass(frozen=True)
class Budget:
    """Limits of the computation: grid points per side, patients per part, instances per patient."""

    grid: int = 11
    patients: int = 96
    instances: int = 128


@dataclass(frozen=True)
class Landscape:
    """Losses, in nats per patient, over a grid of coefficients."""

    a: np.ndarray  # (n_a,) coefficients of the target's vector
    b: np.ndarray  # (n_b,) coefficients of the sources' direction
    loss: Mapping[str, np.ndarray]  # part -> (n_a, n_b), not smoothed
    patients: Mapping[str, int]  # part -> number of patients used
    instances: int  # the most used per patient
    path: np.ndarray  # (n_epochs, 2), mean (a, b) of the training's merges per epoch
    end: tuple[float, float]  # mean (a, b) of the trained model's merges
    epochs: tuple[int, ...] = ()  # numbers of the epochs in path

    def smooth(self, part: str) -> np.ndarray:
        """The loss as it is drawn, ``(n_a, n_b)``: smoothed by a Gaussian filter of one grid step."""
        from scipy.ndimage import gaussian_filter  # noqa: PLC0415 (half a second to import)

        drawn: np.ndarray = gaussian_filter(self.loss[part], SMOOTH, mode="nearest")
        return drawn


@torch.no_grad()
def landscape(
    model: Steph,
    parts: Parts,
    dynamics: dict[str, Any] | None,
    *,
    alpha: float,
    device: torch.device,
    budget: Budget | None = None,
    progress: Progress = silent,
) -> Landscape:
    """Compute the loss of every part over the grid.

    Args:
        parts: training and test patients.
        dynamics: recorded w and lam of the model's training; None if not recorded.
        alpha: of the NLL, in which a censored patient weighs 1 - alpha.
        progress: in grid points.
    """
    budget = budget or Budget()
    used = usage(model, parts["training"], device)
    theta_0, rows = model.mixture.theta_0.cpu(), model.mixture.stack.cpu()
    own, others = rows[0], torch.from_numpy(_shares(used.source_coefficients)).float() @ rows[1:]
    end = float(used.target_coefficient.mean()), float(used.source_coefficients.sum(axis=1).mean())
    epochs, path = _path(dynamics)
    a, b = (_axis([*path[:, i], end[i]], budget.grid) for i in (0, 1))
    sampled = {name: _sample(cohort, budget) for name, cohort in parts.items() if len(cohort)}
    head = model.head.to(device)
    stacked = {name: _stacks(sample, head.out_features, device) for name, sample in sampled.items()}
    loss = {name: np.empty((len(a), len(b))) for name in sampled}
    for done, (i, j) in enumerate(np.ndindex(len(a), len(b)), 1):
        merged = (theta_0 + float(a[i]) * own + float(b[j]) * others).to(device)
        theta = cut(merged, model.mixture.architecture)
        for name, stacks in stacked.items():
            loss[name][i, j] = _loss(head, model.mixture.architecture, theta, stacks, alpha)
        progress(done, len(a) * len(b))
    counts = {name: len(sample) for name, sample in sampled.items()}
    return Landscape(a, b, loss, counts, budget.instances, path, end, epochs)


def _shares(coefficients: np.ndarray) -> np.ndarray:
    """Each source's share of the sources' direction: its mean over the rows of ``coefficients``, scaled to sum to 1."""
    share: np.ndarray = coefficients.mean(axis=0)
    # Learnable weights may be negative and cancel out, and those of a collapsed model are 0: then weight all equally.
    sound = share.sum() > 0.1 * np.abs(share).sum() > 0
    return share / share.sum() if sound else np.full(len(share), 1.0 / len(share))


def _path(dynamics: dict[str, Any] | None) -> tuple[tuple[int, ...], np.ndarray]:
    """The recorded epochs, and the mean coefficients in each, ``(n_epochs, 2)``."""
    epochs = [] if dynamics is None else dynamics["epochs"]
    path = np.array([[one["c_target"], one["c_sources"]] for one in epochs]).reshape(-1, 2)
    return tuple(int(one["epoch"]) for one in epochs), path


def _axis(values: Sequence[float], n: int) -> np.ndarray:
    """Grid of ``n`` coefficients from 0 (M0) to beyond 1 (the whole vector), and around all ``values``."""
    low, high = min(0.0, *(1.15 * value for value in values)), max(1.5, *(1.15 * value for value in values))
    return np.linspace(low, high, n)


_Sample = list[tuple[Tensor, float, int]]  # instances, days, event


def _sample(cohort: Cohort, budget: Budget) -> _Sample:
    rng = np.random.default_rng(derive_seed(0, "landscape"))
    found = []
    for i in np.sort(rng.permutation(len(cohort))[: budget.patients]).tolist():
        bag = cohort.bag(i)
        if len(bag) > budget.instances:
            bag = bag[torch.from_numpy(np.sort(rng.permutation(len(bag))[: budget.instances]))]
        found.append((bag.clone(), float(cohort.times[i]), int(cohort.events[i])))
    return found


@dataclass(frozen=True)
class _Stack:
    """Padded bags of some sampled patients, used at every grid point."""

    bags: Tensor
    mask: Tensor
    bins: Tensor
    events: Tensor


def _stacks(sample: _Sample, n_bins: int, device: torch.device) -> list[_Stack]:
    found = []
    for first in range(0, len(sample), _BAGS_PER_STACK):
        part = sample[first : first + _BAGS_PER_STACK]
        bags = torch.nn.utils.rnn.pad_sequence([bag for bag, _, _ in part], batch_first=True).to(device)
        lengths = torch.tensor([len(bag) for bag, _, _ in part], device=device)
        mask = torch.arange(bags.shape[1], device=device).unsqueeze(0) < lengths.unsqueeze(1)
        bins = torch.from_numpy(bin_of(np.array([t for _, t, _ in part]), n_bins))
        found.append(_Stack(bags, mask, bins, torch.tensor([e for _, _, e in part])))
    return found


def _loss(
    head: torch.nn.Linear,
    architecture: Architecture,
    theta: Mapping[str, Tensor],
    stacks: Sequence[_Stack],
    alpha: float,
) -> float:
    """Mean NLL over all patients of the stacks, in nats."""
    losses = []
    for stack in stacks:
        z, _ = encode(architecture, theta, stack.bags, stack.mask)
        hazards = torch.sigmoid(head(z)).cpu().double()
        losses.append(nll(hazards, stack.bins, stack.events, alpha))
    return float(torch.cat(losses).mean())


def draw(name: str, found: Landscape, who: str) -> Picture:
    """Draw one panel per part: smoothed loss as colours and contours, and the path and end of training."""
    title = "Loss over the merge's two coefficients"
    n = len(found.loss) + bool(len(found.path))
    with canvas(title, who, WIDTH, 2.9 * n + 0.25) as figure:
        panels = np.atleast_1d(figure.subplots(n, 1))
        for panel, part in zip(panels, found.loss, strict=False):
            values = found.smooth(part).T  # rows are b, drawn upwards
            mesh = panel.pcolormesh(found.a, found.b, values, cmap=GRADED, shading="gouraud", rasterized=True)
            figure.colorbar(mesh, ax=panel, label="NLL, nats per patient")
            panel.contour(found.a, found.b, values, levels=10, colors="white", linewidths=0.4, alpha=0.7)
            if len(found.path):
                label = "training, by epoch"
                panel.plot(*found.path.T, color="white", marker=".", markersize=4, linewidth=1.2, label=label)
            places: tuple[tuple[str, Sequence[float], dict[str, Any]], ...] = (
                ("the trained model's mean merge", found.end, _MERGE.point),
                ("the local encoder", (1, 0), method_look("local").point),
                ("M0", (0, 0), {"color": "0.3", "marker": "x"}),
            )
            for label, place, look in places:
                edge = {"markeredgecolor": "white"} if label != "M0" else {"markeredgewidth": 2}
                panel.plot(*place, label=label, linestyle="none", markersize=7, zorder=5, clip_on=False, **look, **edge)
            panel.set(xlabel=_A, ylabel=_B, xlim=found.a[[0, -1]], ylim=found.b[[0, -1]])
            panel.set_title(f"{part}: n = {found.patients[part]}, at most {found.instances} instances each")
        if len(found.path):
            _enlarge(panels[-1], found)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7, facecolor="0.75", frameon=True)
    note = (
        f"Drawn under a Gaussian of {SMOOTH:g} step of the grid; the head is the enhanced model's throughout. The "
        "sources' direction is the mean of their vectors, each weighted by its mean coefficient over training patients."
        " The loss is the survival NLL, in which a censored patient weighs 1 - alpha; training may minimise another "
        "one (Cox's, and STEPH's penalties)."
    )
    return Picture(name, title, figure, note=note, numbers=landscape_table(found))


def _enlarge(panel: Any, found: Landscape) -> None:
    """Draw the path of training enlarged: it may be too short to be visible on the whole plane."""
    panel.plot(*found.path.T, color=_MERGE.colour, marker=".", markersize=5, linewidth=1)
    panel.plot(*found.end, **_MERGE.point, markeredgecolor="white", markersize=7)
    x, y = np.where(found.path[-1] >= found.path[0], 1, -1).tolist()  # labels stand beyond the path's ends
    for epoch, place, end in zip(found.epochs[:1] + found.epochs[-1:], found.path[[0, -1]], (-1, 1), strict=False):
        ha, va = ("left" if end * x > 0 else "right"), ("bottom" if end * y > 0 else "top")
        offset = (5 * end * x, 5 * end * y)
        panel.annotate(f"epoch {epoch}", place, offset, textcoords="offset points", fontsize=7, ha=ha, va=va)
    panel.margins(0.2)
    panel.locator_params(nbins=4)
    panel.set(xlabel=_A, ylabel=_B)
    panel.set_title("training's path, enlarged: each epoch's mean merge")


def landscape_table(found: Landscape) -> Table:
    """The losses of all grid points, computed and smoothed."""
    grids = [values for part in found.loss for values in (found.loss[part], found.smooth(part))]
    rows = [
        [f"{a:.4f}", f"{b:.4f}", *(f"{values[i, j]:.5f}" for values in grids)]
        for i, a in enumerate(found.a)
        for j, b in enumerate(found.b)
    ]
    header = ["target", "sources", *(text for part in found.loss for text in (part, f"{part}, smooth"))]
    return Table(header, rows, "losses", folded=True)
