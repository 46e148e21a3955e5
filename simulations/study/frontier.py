"""The privacy-utility frontier of a study with attacks on shared vectors: one point per row, as CSV, table and plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsteph.client.evaluation.metrics import number
from fedsteph.common.host import atomic
from fedsteph.common.report.style import COLOURS, KINDS, bar_of, encoded
from fedsteph.simulations.csv_text import csv_text
from fedsteph.simulations.study.study_results import StudyResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """A row: its C-index, gain over the local model, and what the attack that does best over all sites shows."""

    row: str
    c_index: float | None
    minus_local: float
    minus_local_interval: Sequence[float] | None
    attack: str
    attack_auc: float
    attack_auc_interval: Sequence[float] | None
    attack_auc_largest: float
    sites_above_chance: int
    attack_tpr_at_1_percent: float
    epsilon: float | None
    epsilon_at_least: float
    vector_bytes: int


def points(results: StudyResults) -> list[Point]:
    """One point per row whose shared vectors were all attacked; empty without a local row as reference."""
    found = []
    for name, row in results["overall"].items():
        attack, against = row.get("attack"), row["against"].get("local")
        if attack is None or against is None or against["difference"] is None:
            continue
        found.append(
            Point(
                row=name,
                c_index=row["mean"],
                minus_local=against["difference"],
                minus_local_interval=against["interval_95"],
                attack=attack["attack"],
                attack_auc=attack["auc"],
                attack_auc_interval=attack["auc_interval_95"],
                attack_auc_largest=attack["auc_largest"],
                sites_above_chance=attack["sites_above_chance"],
                attack_tpr_at_1_percent=attack["tpr"],
                epsilon=attack["epsilon"],
                epsilon_at_least=attack["epsilon_at_least"],
                vector_bytes=attack["vector_bytes"],
            )
        )
    return found


def frontier_table(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and body: per row the gain in C-index, the attack's AUC and TPR, epsilon, and bytes per vector."""
    header = ["row", "C-index", "against local", "interval", "AUC of the attack", "interval", "largest AUC"]
    header += ["sites above chance", "TPR at 1% FPR", "epsilon", "shown by attack", "bytes per vector"]
    body = [
        [
            one.row,
            number(one.c_index),
            f"{one.minus_local:+.3f}",
            _interval(one.minus_local_interval, "+.3f"),
            number(one.attack_auc),
            _interval(one.attack_auc_interval, ".3f"),
            number(one.attack_auc_largest),
            str(one.sites_above_chance),
            number(one.attack_tpr_at_1_percent),
            "no bound" if one.epsilon is None else f"{one.epsilon:.2f}",
            f"{one.epsilon_at_least:.2f}",
            f"{one.vector_bytes:,}",
        ]
        for one in points(results)
    ]
    return header, body


def frontier_csv(results: StudyResults) -> str:
    """The points as CSV."""
    found = [_flat(one) for one in points(results)]
    return csv_text([list(found[0]), *(list(one.values()) for one in found)])


def _flat(one: Point) -> dict[str, object]:
    """A point by column; an interval has two."""
    found: dict[str, object] = {}
    for key, value in vars(one).items():
        if key.endswith("_interval"):
            low, high = value or (None, None)
            found |= {key.replace("interval", "low"): low, key.replace("interval", "high"): high}
        else:
            found[key] = value
    return found


def write_frontier(results: StudyResults, out: Path) -> list[Path]:
    """Write ``frontier.csv``, ``.svg`` and ``.png`` if vectors were attacked; returns the written paths."""
    if not points(results):
        return []
    atomic.write_text(out / "frontier.csv", frontier_csv(results))
    draw(results, out)
    return [out / f"frontier.{kind}" for kind in ("csv", "svg", "png")]


def draw(results: StudyResults, out: Path) -> None:
    """Write ``frontier.svg`` and ``frontier.png``."""
    figure = drawn(results)
    for kind in KINDS:
        atomic.write_bytes(out / f"frontier.{kind}", encoded(figure, kind))


def drawn(results: StudyResults) -> Figure:
    """Plot the gain in C-index over the local model against the AUC of the attack, one point per row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes half a second, so only when drawing)

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.axhline(0.0, color="0.6", linewidth=1, linestyle=":")
    for i, one in enumerate(points(results)):
        x, y = one.attack_auc, one.minus_local
        epsilon = "" if one.epsilon is None else f", epsilon {one.epsilon:.1f}"
        axes.errorbar(
            x,
            y,
            xerr=bar_of(x, one.attack_auc_interval),
            yerr=bar_of(y, one.minus_local_interval),
            marker="o" if one.epsilon is None else "s",
            color=COLOURS[i % len(COLOURS)],
            elinewidth=0.8,
            capsize=2,
            linestyle="none",
            label=f"{one.row} ({_size(one.vector_bytes)}{epsilon})",
        )
    axes.set_xlabel("AUC of the strongest membership attack, mean over sites (0.5 is guessing)")
    axes.set_ylabel("C-index of the enhanced model minus local, mean over targets")
    seeds = len(results["seeds"])
    axes.set_title(
        f"{len(results['targets'])} targets, {results['folds']} folds, {seeds} seed{'s' if seeds > 1 else ''}; "
        "squares: trained with differential privacy; bars: 95% intervals",
        fontsize="medium",
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def _interval(interval: Sequence[float] | None, form: str) -> str:
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"
