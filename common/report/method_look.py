"""One colour, marker and dash pattern per method, the same in every figure of every page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedsteph.common.config.method_names import METHODS
from fedsteph.common.report.style import COLOURS, DASHES, MARKERS

# Okabe and Ito's colours, which colour-blind readers tell apart; methods of a kind share one, and differ in the marker.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("#0072B2", ("local", "tuned_head", "local_ensemble", "local_average")),
    ("#D55E00", ("panel", "risk_ensemble", "risk_mean", "distilled")),
    (
        "#009E73",
        ("steph", "steph_lam0", "steph_lam0_all", "steph_lam1", "steph_param_lam", "steph_dense", "steph_param_w"),
    ),
    ("#CC79A7", ("deployed", "best_source", "roupkt")),
    (
        "#E69F00",
        (
            "half_average",
            "start_average",
            "task_arithmetic",
            "head_sum",
            "head_mean",
            "head_arithmetic",
            "sources_alone",
            "shrunk",
        ),
    ),
    (
        "#56B4E9",
        (
            "model_average",
            "adamerging",
            "ties",
            "surgery",
            "iso_c",
            "adamerging_hyper",
            "ties_hyper",
            "surgery_hyper",
            "iso_c_hyper",
        ),
    ),
    ("#000000", ("fedavg", "fedprox", "pooled", "oracle", "oracle_routing", "best_static_merge", "clinical")),
)
_ALSO = {"enhanced": "panel", "enhanced model": "panel", "local model": "local"}  # what pages call them
_LIGHTER, _DARKER = 0.25, 0.45  # how far the colours of the two risk groups are from the method's


@dataclass(frozen=True)
class Look:
    """How one method is drawn."""

    colour: str
    marker: str
    dashes: Any

    @property
    def line(self) -> dict[str, Any]:
        """For a curve."""
        return {"color": self.colour, "linestyle": self.dashes}

    @property
    def point(self) -> dict[str, Any]:
        """For points."""
        return {"color": self.colour, "marker": self.marker}

    @property
    def groups(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """For the curves of patients of lower and of higher risk by this method: lighter, then darker and dashed."""
        lower, higher = _mixed(self.colour, 255, _LIGHTER), _mixed(self.colour, 0, _DARKER)
        return {"color": lower, "linestyle": "-"}, {"color": higher, "linestyle": (0, (5, 1.5))}


def _looks() -> dict[str, Look]:
    return {
        name: Look(colour, MARKERS[(i + j) % len(MARKERS)], DASHES[(i + j) % len(DASHES)])
        for i, (colour, names) in enumerate(_KINDS)
        for j, name in enumerate(names)
    }


_LOOKS = _looks()
_NAMES = {name.replace("_", " "): name for name in _LOOKS} | {one.title: name for name, one in METHODS.items()} | _ALSO


def method_look(label: str, place: int = 0) -> Look:
    """The look of a method, by its name or its title; of something else, the ``place``-th that no method has."""
    name = _NAMES.get(label, label)
    if name in _LOOKS:
        return _LOOKS[name]
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])


def _mixed(colour: str, towards: int, share: float) -> str:
    """A colour moved by ``share`` towards white (255) or black (0)."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (towards - part) * share):02x}" for part in parts)
