"""The privacy-utility frontier of a study with attacks on shared vectors: one point per row, as CSV, table and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedsteph.client.evaluation.metrics import number
from fedsteph.common.host import atomic
from fedsteph.common.report.csv_text import csv_text
from fedsteph.common.report.method_look import method_look
from fedsteph.common.report.style import KINDS, bar_of, encoded
from fedsteph.simulations.study.study_results import AttackedRow, StudyResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """A row whose shared vectors were all attacked, and its gain in C-index over the local model."""

    row: str
    c_index: float | None
    gain: float
    gain_interval: Sequence[float] | None
    attack: AttackedRow


def points(results: StudyResults) -> list[Point]:
    """One point per row whose shared vectors were all attacked; empty without a local row as reference."""
    found = []
    for name, row in results["overall"].items():
        attack, against = row.get("attack"), row["against"].get("local")
        if attack is not None and against is not None and against["difference"] is not None:
            found.append(Point(name, row["mean"], against["difference"], against["interval_95"], attack))
    return found


def frontier_table(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Header and body: per row the gain in C-index, the attack's AUC and TPR, epsilon, and bytes per vector."""
    header = ["row", "C-index", "against local", "interval", "AUC of the attack", "interval", "largest AUC"]
    header += ["sites above chance", "TPR at 1% FPR", "epsilon", "shown by attack", "bytes per vector"]
    body = [
        [
            row,
            number(c_index),
            f"{gain:+.3f}",
            _interval(interval, "+.3f"),
            number(attack["auc"]),
            _interval(attack["auc_interval_95"], ".3f"),
            number(attack["auc_largest"]),
            str(attack["sites_above_chance"]),
            number(attack["tpr"]),
            "no bound" if attack["epsilon"] is None else f"{attack['epsilon']:.2f}",
            f"{attack['epsilon_at_least']:.2f}",
            f"{attack['vector_bytes']:,}",
        ]
        for row, c_index, gain, interval, attack in points(results)
    ]
    return header, body


def frontier_csv(results: StudyResults) -> str:
    """The points as CSV."""
    header = ["row", "c_index", "minus_local", "minus_local_low", "minus_local_high", "attack", "attack_auc"]
    header += ["attack_auc_low", "attack_auc_high", "attack_auc_largest", "sites_above_chance"]
    header += ["attack_tpr_at_1_percent", "epsilon", "epsilon_at_least", "vector_bytes"]
    lines: list[list[object]] = []
    for row, c_index, gain, interval, attack in points(results):
        found = [attack["auc_largest"], attack["sites_above_chance"], attack["tpr"], attack["epsilon"]]
        found += [attack["epsilon_at_least"], attack["vector_bytes"]]
        ends = attack["auc_interval_95"] or (None, None)
        lines.append([row, c_index, gain, *(interval or (None, None)), attack["attack"], attack["auc"], *ends, *found])
    return csv_text([header, *lines])


def write_frontier(results: StudyResults, out: Path) -> list[Path]:
    """Write ``frontier.csv``, ``.svg`` and ``.png`` if vectors were attacked; returns the written paths."""
    if not points(results):
        return []
    atomic.write_text(out / "frontier.csv", frontier_csv(results))
    figure = drawn(results)
    for kind in KINDS:
        atomic.write_bytes(out / f"frontier.{kind}", encoded(figure, kind))
    return [out / f"frontier.{kind}" for kind in ("csv", "svg", "png")]


def finding(found: Sequence[Point]) -> str:
    """In which row the attack does best and in which one worst, in a sentence."""
    by_auc = sorted(found, key=lambda point: point.attack["auc"])
    worst, best = (f"{point.attack['auc']:.3f} ({point.row})" for point in (by_auc[0], by_auc[-1]))
    if len(found) == 1:
        return f"The strongest attack has an AUC of {best}."
    return f"The strongest attack has an AUC from {worst} to {best}."


def drawn(results: StudyResults) -> Figure:
    """Plot the gain in C-index over the local model against the AUC of the attack, one point per row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (takes half a second, so only when drawing)

    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle=":")
    axes.axhline(0.0, color="0.6", linewidth=1, linestyle=":")
    for i, (row, _, gain, interval, attack) in enumerate(points(results), 1):
        epsilon = "" if attack["epsilon"] is None else f", epsilon {attack['epsilon']:.1f}"
        axes.errorbar(
            attack["auc"],
            gain,
            xerr=bar_of(attack["auc"], attack["auc_interval_95"]),
            yerr=bar_of(gain, interval),
            markerfacecolor=None if attack["epsilon"] is None else "white",
            **method_look(results["rows"][row]["method"]).point,
            elinewidth=0.8,
            capsize=2,
            linestyle="none",
            label=f"{i}: {row} ({_size(attack['vector_bytes'])}{epsilon})",
        )
        # Rows of one method look alike, so each has a number, which stands between its bars.
        axes.annotate(str(i), (attack["auc"], gain), (5, 5), textcoords="offset points", fontsize="small")
    axes.set_xlabel("AUC of the strongest membership attack, mean over sites (0.5 is guessing)")
    axes.set_ylabel("C-index of the enhanced model minus local, mean over targets")
    seeds = len(results["seeds"])
    axes.set_title(
        f"{len(results['targets'])} targets, {results['folds']} folds, {seeds} seed{'s' if seeds > 1 else ''}; "
        "hollow: trained with differential privacy; bars: 95% intervals",
        fontsize="medium",
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def _interval(interval: Sequence[float] | None, form: str) -> str:
    return "-" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"
